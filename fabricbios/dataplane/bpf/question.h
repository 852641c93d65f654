/* SPDX-License-Identifier: Apache-2.0 */
/* What a datagram asks, and what the lease says to it: D10's checks but for tag, window and write order. */
#ifndef FABRICBIOS_QUESTION_H
#define FABRICBIOS_QUESTION_H

#include "packet.h"
#include "protocol.h"
#include "tag.h"

#define MAGIC_FBMU bpf_htonl(0x46424d55)
#define MAGIC_FBBU bpf_htonl(0x46424255)

struct question {
	struct place place;
	struct tagging tagging;
	__u64 nonce;
	__u64 offset;
	__u32 payload_len;
	__u32 op;
	__u32 length; /* of the data it is about */
	__u32 status;
	__u32 answer; /* payload bytes of the answer */
};

static __always_inline int is_io(__u32 op)
{
	return op == DP_OP_READ || op == DP_OP_WRITE;
}

/* Bytes of parameters that an op starts with; more than any payload for what is no question. */
static __always_inline __u32 params_of(__u32 op)
{
	if (is_io(op))
		return PARAMS;
	if (op == DP_OP_HELLO)
		return HELLO_PARAMS;
	return op == DP_OP_PING ? 0 : MAX_PAYLOAD + 1;
}

static __always_inline int header_is_sound(const struct dp_header *h, const struct question *q, __u32 magic)
{
	__u32 limit = q->place.v6 ? MAX_DATAGRAM_V6 : MAX_DATAGRAM_V4;

	if (q->place.payload < HEADER || q->place.payload > limit)
		return 0;
	if (*(__u32 *)h->magic != magic || h->version != VERSION || h->flags)
		return 0;
	if (q->payload_len != q->place.payload - HEADER || q->payload_len < params_of(q->op))
		return 0;
	return q->nonce && (h->request_id || !is_io(q->op));
}

/* Read the header; 0 if the datagram is one of `magic`'s protocol and holds what its op needs. */
static __always_inline int read_header(void *data, void *end, struct question *q, __u32 magic)
{
	__u64 at = q->place.at & OFFSET_MASK;
	struct dp_header *h = data + at;

	if ((void *)(h + 1) > end)
		return -1;
	q->op = h->op;
	q->payload_len = bpf_ntohl(h->payload_len);
	q->nonce = bpf_be64_to_cpu(h->nonce);
	return header_is_sound(h, q, magic) ? 0 : -1;
}

/* Read offset and length of READ and WRITE; -1 for a HELLO for another lease. */
static __always_inline int read_params(void *data, void *end, struct question *q)
{
	__u64 at = q->place.at & OFFSET_MASK;
	struct dp_header *h = data + at;
	__u64 *id = (__u64 *)h->lease_id, *param = (__u64 *)(h + 1);

	if (is_io(q->op)) {
		if ((void *)param + PARAMS > end)
			return -1;
		q->offset = bpf_be64_to_cpu(param[0]);
		q->length = bpf_ntohl(*(__u32 *)(param + 1));
	} else if (q->op == DP_OP_HELLO) {
		if ((void *)(param + 2) > end)
			return -1;
		return param[0] == id[0] && param[1] == id[1] ? 0 : -1;
	}
	return 0;
}

/* Payload bytes under the tag of a question: its parameters, and in the FULL modes a WRITE's data. */
static __always_inline __u32 covered_of(const struct question *q, __u32 auth)
{
	if (auth == DP_AUTH_HMAC_HEADER)
		return is_io(q->op) ? PARAMS : 0;
	return q->op == DP_OP_WRITE ? q->payload_len : params_of(q->op);
}

/* LIMITS of the lease, and no more than fits a datagram. */
static __always_inline __u32 limit_of(const struct lease_slot *slot, const struct question *q, __u32 op)
{
	__u32 datagram = q->place.v6 ? MAX_DATAGRAM_V6 : MAX_DATAGRAM_V4;
	__u32 around = HEADER + (op == DP_OP_READ ? READ_RESP_HEAD : PARAMS);
	__u32 lease = op == DP_OP_READ ? slot->max_read : slot->max_write;

	return lease < datagram - around ? lease : datagram - around;
}

/* Length, rights and range of READ and WRITE, in this order. */
static __always_inline __u32 judge_io(const struct lease_slot *slot, const struct question *q)
{
	__u32 right = q->op == DP_OP_READ ? RIGHT_READ : RIGHT_WRITE;
	__u64 length = slot->length;

	if (!q->length || q->length > limit_of(slot, q, q->op))
		return DP_STATUS_BAD_LENGTH;
	if (q->op == DP_OP_WRITE && q->payload_len != PARAMS + q->length)
		return DP_STATUS_BAD_LENGTH;
	if (!(slot->rights & right))
		return DP_STATUS_OUT_OF_RANGE;
	if (q->offset > length || length - q->offset < q->length)
		return DP_STATUS_OUT_OF_RANGE;
	return DP_STATUS_OK;
}

static __always_inline __u32 judge(const struct lease_slot *slot, const struct question *q)
{
	__u64 state = *(volatile __u64 *)&slot->state;

	if (state == SLOT_STATE_FENCED)
		return DP_STATUS_FENCED;
	if (state != SLOT_STATE_ACTIVE || bpf_ktime_get_boot_ns() >= *(volatile __u64 *)&slot->expiry_ns)
		return DP_STATUS_EXPIRED;
	return is_io(q->op) ? judge_io(slot, q) : DP_STATUS_OK;
}

static __always_inline __u32 answer_size(const struct question *q)
{
	switch (q->op) {
	case DP_OP_READ:
		return READ_RESP_HEAD + (q->status ? 0 : q->length);
	case DP_OP_HELLO:
		return HELLO_ACK_SIZE;
	case DP_OP_PING:
		return q->status ? STATUS_SIZE : 0;
	default:
		return STATUS_SIZE;
	}
}

#endif
