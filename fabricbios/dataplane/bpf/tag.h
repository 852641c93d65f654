/* SPDX-License-Identifier: Apache-2.0 */
/*
 * auth_tag in all four modes (D10): over header bytes 0-39 and then `covered` bytes of the payload.
 *
 * The message is read out of the packet block by block: a question's before a byte of it counts, an answer's after
 * its last byte was written. Blocks live on the stack and not in per-CPU memory, because on older kernels a packet
 * may interrupt a test run on the same CPU.
 */
#ifndef FABRICBIOS_TAG_H
#define FABRICBIOS_TAG_H

#include "hashes_gen.h"
#include "protocol.h"
#include "siphash.h"

#define BLOCK 64
#define FIRST_TAKE (BLOCK - SIGNED_HEADER) /* payload bytes in the first block */
#define MAX_BLOCKS 24 /* 40 + MAX_PAYLOAD bytes, and the 9 that SHA-256 adds */

struct tagging {
	__u64 tag[2]; /* in memory order */
	__u32 at; /* where the header starts in the packet */
	__u32 covered; /* payload bytes under the tag */
};

/* Fill the block with the header's 40 bytes and up to 24 of the payload. */
static __noinline int tag_first_block(struct xdp_md *ctx, const struct tagging *t, struct hash_block *block)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = t->at & OFFSET_MASK, take = t->covered;
	__u32 *header = data + at;

	if ((void *)header + HEADER > end)
		return -1;
	for (int i = 0; i < SIGNED_HEADER / 4; i++)
		block->word[i] = header[i];
	for (int i = SIGNED_HEADER / 4; i < BLOCK / 4; i++)
		block->word[i] = 0;
	if (!take)
		return 0;
	if (take > FIRST_TAKE)
		take = FIRST_TAKE;
	BOUND(take, 32);
	return bpf_xdp_load_bytes(ctx, at + HEADER, &block->word[SIGNED_HEADER / 4], take);
}

/* Fill the block with up to 64 payload bytes that start at `from`; none are left where SHA-256 needs one more. */
static __noinline int tag_next_block(struct xdp_md *ctx, const struct tagging *t, struct hash_block *block, __u32 from)
{
	__u64 at = t->at & OFFSET_MASK, take = 0;

	for (int i = 0; i < BLOCK / 4; i++)
		block->word[i] = 0;
	if (from < t->covered)
		take = t->covered - from;
	if (!take)
		return 0;
	if (take > BLOCK)
		take = BLOCK;
	BOUND(take, BLOCK);
	return bpf_xdp_load_bytes(ctx, at + HEADER + from, block, take);
}

static __always_inline int tag_block(struct xdp_md *ctx, const struct tagging *t, struct hash_block *block, __u32 i)
{
	return i ? tag_next_block(ctx, t, block, i * BLOCK - SIGNED_HEADER) : tag_first_block(ctx, t, block);
}

static __always_inline void swap_words(__u32 *words, int count)
{
	for (int i = 0; i < count; i++)
		words[i] = __builtin_bswap32(words[i]);
}

/* The outer hash: one block of the inner digest, which has 32 bytes. */
static __always_inline void hmac_finish(const struct lease_slot *slot, struct tagging *t, struct hash_state *state,
					struct hash_block *block)
{
	for (int i = 0; i < 8; i++) {
		block->word[i] = bpf_htonl(state->word[i]);
		state->word[i] = slot->opad[i];
	}
	block->word[8] = 0x80;
	for (int i = 9; i < 15; i++)
		block->word[i] = 0;
	block->word[15] = bpf_htonl((BLOCK + 32) * 8);
	sha256_block(state, block);
	swap_words(state->word, 4);
	t->tag[0] = (__u64)state->word[1] << 32 | state->word[0];
	t->tag[1] = (__u64)state->word[3] << 32 | state->word[2];
}

__noinline int tag_hmac(struct xdp_md *ctx, const struct lease_slot *slot, struct tagging *t)
{
	struct hash_state state;
	struct hash_block block;

	if (!slot || !t)
		return -1;
	__u32 length = SIGNED_HEADER + t->covered, blocks = (length + 9 + BLOCK - 1) / BLOCK;

	for (int i = 0; i < 8; i++)
		state.word[i] = slot->ipad[i];
	for (__u32 i = 0; i < MAX_BLOCKS; i++) {
		__u32 mark = length - i * BLOCK;

		if (i >= blocks)
			break;
		if (tag_block(ctx, t, &block, i))
			return -1;
		if (mark < BLOCK)
			((__u8 *)&block)[mark] = 0x80;
		if (i + 1 == blocks)
			block.word[15] = bpf_htonl((BLOCK + length) * 8);
		sha256_block(&state, &block);
	}
	hmac_finish(slot, t, &state, &block);
	return 0;
}

__noinline int tag_blake2s(struct xdp_md *ctx, const struct lease_slot *slot, struct tagging *t)
{
	struct hash_state state;
	struct hash_block block;

	if (!slot || !t)
		return -1;
	__u32 length = SIGNED_HEADER + t->covered, blocks = (length + BLOCK - 1) / BLOCK;

	for (int i = 0; i < 8; i++)
		state.word[i] = slot->blake2s[i];
	for (__u32 i = 0; i < MAX_BLOCKS; i++) {
		__u32 last = i + 1 == blocks, counted = last ? length : (i + 1) * BLOCK;

		if (i >= blocks)
			break;
		if (tag_block(ctx, t, &block, i))
			return -1;
		blake2s_block(&state, &block, BLOCK + counted, -last);
	}
	t->tag[0] = (__u64)state.word[1] << 32 | state.word[0];
	t->tag[1] = (__u64)state.word[3] << 32 | state.word[2];
	return 0;
}

__noinline int tag_siphash(struct xdp_md *ctx, const struct lease_slot *slot, struct tagging *t)
{
	if (!slot || !t)
		return -1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = t->at & OFFSET_MASK, covered = t->covered, rest = covered & 7, last = 0;
	__u64 *word = data + at;
	struct sip_state s;

	if ((void *)word + HEADER > end || covered > MAX_PAYLOAD)
		return -1;
	sip_start(&s, slot->sip[0], slot->sip[1]);
	for (int i = 0; i < SIGNED_HEADER / 8; i++)
		sip_word(&s, word[i]);
	word += HEADER / 8;
	for (__u32 done = 8; done <= MAX_PAYLOAD; done += 8) {
		if (done > covered || (void *)(word + 1) > end)
			break;
		sip_word(&s, *word);
		word++;
	}
	if (rest && load_rest(data, end, at + HEADER + covered, rest, &last))
		return -1;
	last |= (SIGNED_HEADER + covered) << 56;
	sip_word(&s, last);
	sip_finish(&s, &t->tag[0], &t->tag[1]);
	return 0;
}

/* Make the tag of the datagram at `t->at`; -1 if the packet is shorter than it says. */
static __always_inline int tag_make(struct xdp_md *ctx, const struct lease_slot *slot, struct tagging *t)
{
	if (slot->auth == DP_AUTH_SIPHASH_FULL)
		return tag_siphash(ctx, slot, t);
	if (slot->auth == DP_AUTH_BLAKE2S_FULL)
		return tag_blake2s(ctx, slot, t);
	return tag_hmac(ctx, slot, t);
}

#endif
