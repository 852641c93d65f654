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

#include "copy.h"
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

/*
 * Fill `count` words with the `take` bytes that start at `from`, and zeros. Word by word: a hash that reads a word soon
 * after it was written in other pieces, as memcpy writes them, waits until they have reached the cache.
 */
static __always_inline int fill_words(void *data, void *end, __u64 from, __u32 take, __u64 *to, __u32 count)
{
	FORGET(from);
	if (from > 2047)
		return -1;
	__u64 *word = data + from;

	if (take >= 8 * count && (void *)(word + count) <= end) {
		for (__u32 i = 0; i < count; i++)
			to[i] = word[i];
		return 0;
	}
	for (__u32 i = 0; i < count; i++)
		to[i] = 0;
	for (__u32 i = 0; i < count; i++) {
		if (8 * (i + 1) > take)
			return take > 8 * i ? load_rest(data, end, from + take, take - 8 * i, &to[i]) : 0;
		if ((void *)(word + i + 1) > end)
			return -1;
		to[i] = word[i];
	}
	return 0;
}

/* Fill block number i of the message: the header's 40 bytes and 24 of the payload, or the next 64 of the payload. */
static __always_inline int tag_block(struct xdp_md *ctx, const struct tagging *t, struct hash_block *block, __u32 i)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = t->at & OFFSET_MASK, *header = data + at;
	__u32 from = i * BLOCK - SIGNED_HEADER, take = t->covered;

	if ((void *)header + HEADER > end)
		return -1;
	if (i)
		return fill_words(data, end, at + HEADER + from, from < take ? take - from : 0, block->pair, BLOCK / 8);
	for (int w = 0; w < SIGNED_HEADER / 8; w++)
		block->pair[w] = header[w];
	return fill_words(data, end, at + HEADER, take, &block->pair[SIGNED_HEADER / 8], FIRST_TAKE / 8);
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

	__builtin_memcpy(&state, slot->ipad, sizeof(state));
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

	__builtin_memcpy(&state, slot->blake2s, sizeof(state));
	for (__u32 i = 0; i < MAX_BLOCKS; i++) {
		__u32 last = i + 1 == blocks, counted = last ? length : (i + 1) * BLOCK;

		if (i >= blocks)
			break;
		if (tag_block(ctx, t, &block, i))
			return -1;
		blake2s_block(&state, &block, BLOCK + counted, -last);
	}
	t->tag[0] = state.pair[0];
	t->tag[1] = state.pair[1];
	return 0;
}

/* Rolled up: a packet finds the instruction cache cold. */
static __always_inline void sip_header(struct sip_state *s, const __u64 *word)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < SIGNED_HEADER / 8; i++)
		sip_word(s, word[i]);
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
	sip_header(&s, word);
	word += HEADER / 8;
	for (__u64 done = 8; done <= covered && (void *)(word + 1) <= end; done += 8) {
		sip_word(&s, *word);
		word++;
		PLAIN_STEP(done, word);
	}
	if (rest && load_rest(data, end, at + HEADER + covered, rest, &last))
		return -1;
	last |= (SIGNED_HEADER + covered) << 56;
	sip_word(&s, last);
	sip_finish(&s, &t->tag[0], &t->tag[1]);
	return 0;
}

/*
 * A READ's answer under SIPHASH_FULL, when all but its data is written: copy and hash the data in one walk, which costs
 * little more than to hash it. Whole words within one slab alone; -1 without a change for what is not, or is not there.
 */
__noinline int tag_siphash_read(struct xdp_md *ctx, const struct lease_slot *slot, struct tagging *t, __u64 address)
{
	if (!slot || !t)
		return -1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = t->at & OFFSET_MASK, length = t->covered - READ_RESP_HEAD, here = length;
	__u64 *word = data + at, *memory;
	struct sip_state s;

	if (length & 7 || length > MAX_PAYLOAD || (void *)word + HEADER + READ_RESP_HEAD > end)
		return -1;
	memory = find_leased(address, &here);
	if (!memory || here != length)
		return -1;
	sip_start(&s, slot->sip[0], slot->sip[1]);
	sip_header(&s, word);
	word += HEADER / 8;
	sip_word(&s, *word);
	for (__u64 done = 8; done <= length; done += 8) {
		__u64 datum = *memory;

		word++;
		if ((void *)(word + 1) > end)
			return -1;
		*word = datum;
		sip_word(&s, datum);
		memory++;
		PLAIN_STEP(done, word);
		FORGET(memory);
	}
	sip_word(&s, (__u64)(SIGNED_HEADER + t->covered) << 56);
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
