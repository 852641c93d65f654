/* SPDX-License-Identifier: Apache-2.0 */
/* The answer, written over its question: request_id, lease_id and nonce stay where they are (D10). */
#ifndef FABRICBIOS_ANSWER_H
#define FABRICBIOS_ANSWER_H

#include "copy.h"
#include "packet.h"
#include "question.h"
#include "tag.h"

static __always_inline __u8 answer_op(const struct question *q)
{
	return q->op == DP_OP_PING && q->status ? DP_OP_ERROR : q->op + 1;
}

static __always_inline int write_hello_ack(__u32 *payload, void *end, const struct lease_slot *slot,
					   const struct question *q)
{
	int ok = q->status == DP_STATUS_OK;
	__u64 length = bpf_cpu_to_be64(slot->length);

	if ((void *)payload + HELLO_ACK_SIZE > end)
		return -1;
	payload[1] = ok ? length : 0;
	payload[2] = ok ? length >> 32 : 0;
	payload[3] = ok ? bpf_htonl(limit_of(slot, q, DP_OP_READ)) : 0;
	payload[4] = ok ? bpf_htonl(limit_of(slot, q, DP_OP_WRITE)) : 0;
	return 0;
}

/* Write the payload, all but a READ's data. */
static __always_inline int write_payload(__u32 *payload, void *end, const struct lease_slot *slot,
					 const struct question *q)
{
	if (!q->answer)
		return 0;
	if ((void *)(payload + 1) > end)
		return -1;
	if (q->op == DP_OP_READ) {
		if ((void *)(payload + 2) > end)
			return -1;
		*(__u64 *)payload = q->status ? q->status : (__u64)bpf_htonl(q->length) << 32;
		return 0;
	}
	payload[0] = q->status; /* little-endian: the status byte, then three reserved zeros */
	return q->op == DP_OP_HELLO ? write_hello_ack(payload, end, slot, q) : 0;
}

/*
 * Write the whole answer but for a READ's data, the tag and the checksum over both. In the words that the hash reads
 * soon after: none can be forwarded to it that was put together from smaller pieces.
 */
__noinline int write_heads(struct xdp_md *ctx, const struct lease_slot *slot, const struct question *q)
{
	if (!slot || !q)
		return -1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = q->place.at & OFFSET_MASK;
	__u64 *h = data + at;

	if (answer_frame(data, end, &q->place, q->answer) || (void *)h + HEADER > end)
		return -1;
	h[0] = (h[0] & ~(0xffull << 40)) | (__u64)answer_op(q) << 40;
	h[1] = (h[1] & ~0xffffffffull) | bpf_htonl(q->answer);
	return write_payload((void *)h + HEADER, end, slot, q);
}

static __always_inline int copy_question(struct xdp_md *ctx, const struct lease_slot *slot, const struct question *q,
					 enum copy_way way)
{
	__u32 head = way == TO_MEMORY ? PARAMS : READ_RESP_HEAD;

	return copy_leased(ctx, slot->base + q->offset, q->length, q->place.at + HEADER + head, way);
}

/* Where the header is, so that the verifier sees a range and not the ways to it. */
static __always_inline __u64 header_offset(const struct tagging *t)
{
	__u64 at = t->at;

	FORGET(at);
	return at & OFFSET_MASK;
}

/* Put the tag where the header has it. */
static __always_inline int put_tag(struct xdp_md *ctx, const struct tagging *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *tag = data + header_offset(t);

	if ((void *)tag + HEADER > end)
		return -1;
	tag[SIGNED_HEADER / 8] = t->tag[0];
	tag[SIGNED_HEADER / 8 + 1] = t->tag[1];
	return 0;
}

/* 0 if the tag in the header is this one; the time it takes does not depend on where they differ. */
static __always_inline int compare_tag(struct xdp_md *ctx, const struct tagging *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *tag = data + header_offset(t), difference;

	if ((void *)tag + HEADER > end)
		return -1;
	difference = (tag[SIGNED_HEADER / 8] ^ t->tag[0]) | (tag[SIGNED_HEADER / 8 + 1] ^ t->tag[1]);
	return difference ? -1 : 0;
}

/* The FULL modes give an answer its own tag; HMAC_HEADER repeats the question's, which stands there already. */
static __always_inline int write_tag(struct xdp_md *ctx, const struct lease_slot *slot, struct question *q)
{
	if (slot->auth == DP_AUTH_HMAC_HEADER)
		return 0;
	q->tagging.covered = q->answer;
	return tag_make(ctx, slot, &q->tagging) ? -1 : put_tag(ctx, &q->tagging);
}

/* Bytes by which the answer's frame is longer than the question's. */
static __always_inline int growth(struct xdp_md *ctx, const struct question *q)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	long length = end - data;

	FORGET(length);
	return (int)(q->place.at + HEADER + q->answer - length);
}

#endif
