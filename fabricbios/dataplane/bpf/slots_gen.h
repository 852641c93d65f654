/* SPDX-License-Identifier: Apache-2.0 */
/* Generated from the tables in fabricbios/dataplane by `python -m fabricbios.dataplane.build`; do not edit. */
#ifndef FABRICBIOS_SLOTS_GEN_H
#define FABRICBIOS_SLOTS_GEN_H

#include <linux/types.h>

#define SLAB_BYTES 268435456
#define SLAB_MARGIN 4096
#define WINDOW 1024
#define WINDOW_WORDS 128
#define RIGHT_READ 1
#define RIGHT_WRITE 2

/* fabricbios.dataplane.slots.SlotState */
enum slot_state {
	SLOT_STATE_FREE = 0,
	SLOT_STATE_ACTIVE = 1,
	SLOT_STATE_ENDED = 2,
	SLOT_STATE_FENCED = 3,
};

/* fabricbios.dataplane.slots.Plane */
enum plane {
	PLANE_FBMU = 1,
	PLANE_FBBU = 2,
};

/* fabricbios.dataplane.xdp_layout.CounterRecord */
enum counter_record {
	COUNTER_RECORD_INTERFACE = 0,
	COUNTER_RECORD_SOCKET = 1,
};

/* fabricbios.dataplane.counters.DropReason */
enum drop {
	DROP_MALFORMED = 0,
	DROP_UNKNOWN_LEASE = 1,
	DROP_WRONG_PLANE = 2,
	DROP_BAD_TAG = 3,
	DROP_REPLAYED = 4,
	DROP_TOO_OLD = 5,
	DROP_FRAGMENT = 6,
	DROP_CHECKSUM = 7,
	DROP_INTERNAL = 8,
};

/* fabricbios.dataplane.counters.CountedOp */
enum counted {
	COUNTED_HELLO = 0,
	COUNTED_READ = 1,
	COUNTED_WRITE = 2,
	COUNTED_PING = 3,
};

/* fabricbios.model.DpOp */
enum dp_op {
	DP_OP_HELLO = 1,
	DP_OP_HELLO_ACK = 2,
	DP_OP_READ = 16,
	DP_OP_READ_RESP = 17,
	DP_OP_WRITE = 32,
	DP_OP_WRITE_RESP = 33,
	DP_OP_PING = 48,
	DP_OP_PONG = 49,
	DP_OP_ERROR = 127,
};

/* fabricbios.model.DpStatus */
enum dp_status {
	DP_STATUS_OK = 0,
	DP_STATUS_INVALID_LEASE = 1,
	DP_STATUS_EXPIRED = 2,
	DP_STATUS_FENCED = 3,
	DP_STATUS_OUT_OF_RANGE = 4,
	DP_STATUS_BAD_LENGTH = 5,
	DP_STATUS_BUSY = 6,
	DP_STATUS_INTERNAL = 7,
	DP_STATUS_BAD_AUTH = 8,
	DP_STATUS_STALE_WRITE = 9,
};

/* fabricbios.model.DpAuth */
enum dp_auth {
	DP_AUTH_HMAC_HEADER = 0,
	DP_AUTH_HMAC_FULL = 1,
	DP_AUTH_BLAKE2S_FULL = 2,
	DP_AUTH_SIPHASH_FULL = 3,
};

/* one lease as the data paths see it (fabricbios/dataplane/slots.py) */
struct lease_slot {
	__u64 state; /* enum SlotState, one aligned store revokes */
	__u64 expiry_ns; /* CLOCK_BOOTTIME, one aligned store renews; now >= expiry_ns is over */
	__u8 lease_id[16]; /* as on the wire */
	__u64 base; /* FBMU: first byte in the flat memory, slab = address >> 28 (slab.py); FBBU: in the device */
	__u64 length; /* bytes leased */
	__u32 device; /* FBBU: which device; FBMU: 0 */
	__u32 generation; /* of the lease, for people */
	__u32 max_read; /* LIMITS, bytes; a path may bound it further by its datagram size */
	__u32 max_write; /* LIMITS, bytes; likewise */
	__u32 plane; /* enum Plane */
	__u32 rights; /* READ 1, WRITE 2 */
	__u32 auth; /* DpAuth */
	__u32 guard; /* counts the uses of this slot: what was cached of another value is stale */
	__u64 sip[2]; /* SipHash k0, k1 */
	__u32 blake2s[8]; /* keyed BLAKE2s state after the key block (16-byte digest) */
	__u32 ipad[8]; /* SHA-256 state after key ^ ipad */
	__u32 opad[8]; /* SHA-256 state after key ^ opad */
	__u8 dp_key[32]; /* for user space, whose hash functions take no midstates */
	__u64 highest; /* highest authentic nonce (D10) */
	__u64 write_mark; /* nonce of the latest WRITE taken (D10) */
	__u64 write_lock; /* 1 while XDP carries out a WRITE, so that order and data are one step */
	__u64 reserved; /* zero */
	__u64 kernel_reads; /* READs answered OK by XDP */
	__u64 kernel_writes; /* WRITEs answered OK by XDP */
	__u64 kernel_bytes; /* data bytes of both */
	__u64 kernel_rejects; /* authentic questions answered with another status */
	__u64 user_reads; /* the same, by user space */
	__u64 user_writes; /*  */
	__u64 user_bytes; /*  */
	__u64 user_rejects; /*  */
	__u64 window[128]; /* replay window: WINDOW_WORDS */
};
_Static_assert(sizeof(struct lease_slot) == 1344, "lease_slot");
_Static_assert(__builtin_offsetof(struct lease_slot, state) == 0, "lease_slot.state");
_Static_assert(__builtin_offsetof(struct lease_slot, expiry_ns) == 8, "lease_slot.expiry_ns");
_Static_assert(__builtin_offsetof(struct lease_slot, lease_id) == 16, "lease_slot.lease_id");
_Static_assert(__builtin_offsetof(struct lease_slot, base) == 32, "lease_slot.base");
_Static_assert(__builtin_offsetof(struct lease_slot, length) == 40, "lease_slot.length");
_Static_assert(__builtin_offsetof(struct lease_slot, device) == 48, "lease_slot.device");
_Static_assert(__builtin_offsetof(struct lease_slot, generation) == 52, "lease_slot.generation");
_Static_assert(__builtin_offsetof(struct lease_slot, max_read) == 56, "lease_slot.max_read");
_Static_assert(__builtin_offsetof(struct lease_slot, max_write) == 60, "lease_slot.max_write");
_Static_assert(__builtin_offsetof(struct lease_slot, plane) == 64, "lease_slot.plane");
_Static_assert(__builtin_offsetof(struct lease_slot, rights) == 68, "lease_slot.rights");
_Static_assert(__builtin_offsetof(struct lease_slot, auth) == 72, "lease_slot.auth");
_Static_assert(__builtin_offsetof(struct lease_slot, guard) == 76, "lease_slot.guard");
_Static_assert(__builtin_offsetof(struct lease_slot, sip) == 80, "lease_slot.sip");
_Static_assert(__builtin_offsetof(struct lease_slot, blake2s) == 96, "lease_slot.blake2s");
_Static_assert(__builtin_offsetof(struct lease_slot, ipad) == 128, "lease_slot.ipad");
_Static_assert(__builtin_offsetof(struct lease_slot, opad) == 160, "lease_slot.opad");
_Static_assert(__builtin_offsetof(struct lease_slot, dp_key) == 192, "lease_slot.dp_key");
_Static_assert(__builtin_offsetof(struct lease_slot, highest) == 224, "lease_slot.highest");
_Static_assert(__builtin_offsetof(struct lease_slot, write_mark) == 232, "lease_slot.write_mark");
_Static_assert(__builtin_offsetof(struct lease_slot, write_lock) == 240, "lease_slot.write_lock");
_Static_assert(__builtin_offsetof(struct lease_slot, reserved) == 248, "lease_slot.reserved");
_Static_assert(__builtin_offsetof(struct lease_slot, kernel_reads) == 256, "lease_slot.kernel_reads");
_Static_assert(__builtin_offsetof(struct lease_slot, kernel_writes) == 264, "lease_slot.kernel_writes");
_Static_assert(__builtin_offsetof(struct lease_slot, kernel_bytes) == 272, "lease_slot.kernel_bytes");
_Static_assert(__builtin_offsetof(struct lease_slot, kernel_rejects) == 280, "lease_slot.kernel_rejects");
_Static_assert(__builtin_offsetof(struct lease_slot, user_reads) == 288, "lease_slot.user_reads");
_Static_assert(__builtin_offsetof(struct lease_slot, user_writes) == 296, "lease_slot.user_writes");
_Static_assert(__builtin_offsetof(struct lease_slot, user_bytes) == 304, "lease_slot.user_bytes");
_Static_assert(__builtin_offsetof(struct lease_slot, user_rejects) == 312, "lease_slot.user_rejects");
_Static_assert(__builtin_offsetof(struct lease_slot, window) == 320, "lease_slot.window");

/* counters of one data path (fabricbios/dataplane/counters.py) */
struct dp_counters {
	__u64 requests[8]; /* authentic questions, by enum CountedOp */
	__u64 drops[16]; /* datagrams without an answer, by enum DropReason */
	__u64 statuses[16]; /* answers, by DpStatus */
	__u64 bytes_read; /* data bytes answered to READ */
	__u64 bytes_written; /* data bytes taken from WRITE */
	__u64 batch; /* odd while a user-space server works on a batch (quiescence) */
	__u64 reserved[5]; /* zero */
};
_Static_assert(sizeof(struct dp_counters) == 384, "dp_counters");
_Static_assert(__builtin_offsetof(struct dp_counters, requests) == 0, "dp_counters.requests");
_Static_assert(__builtin_offsetof(struct dp_counters, drops) == 64, "dp_counters.drops");
_Static_assert(__builtin_offsetof(struct dp_counters, statuses) == 192, "dp_counters.statuses");
_Static_assert(__builtin_offsetof(struct dp_counters, bytes_read) == 320, "dp_counters.bytes_read");
_Static_assert(__builtin_offsetof(struct dp_counters, bytes_written) == 328, "dp_counters.bytes_written");
_Static_assert(__builtin_offsetof(struct dp_counters, batch) == 336, "dp_counters.batch");
_Static_assert(__builtin_offsetof(struct dp_counters, reserved) == 344, "dp_counters.reserved");

/* what every datagram of FBMU and FBBU starts with (D10) */
struct dp_header {
	__u8 magic[4]; /* FBMU or FBBU */
	__u8 version; /* 1 */
	__u8 op; /* enum dp_op */
	__be16 flags; /* 0 */
	__be32 payload_len; /* bytes after the header */
	__be32 request_id; /* repeated by the answer */
	__u8 lease_id[16]; /* u128, repeated by the answer */
	__be64 nonce; /* repeated by the answer */
	__u8 auth_tag[16]; /* enum dp_auth says how it is made */
} __attribute__((packed));
_Static_assert(sizeof(struct dp_header) == 56, "dp_header");
_Static_assert(__builtin_offsetof(struct dp_header, magic) == 0, "dp_header.magic");
_Static_assert(__builtin_offsetof(struct dp_header, version) == 4, "dp_header.version");
_Static_assert(__builtin_offsetof(struct dp_header, op) == 5, "dp_header.op");
_Static_assert(__builtin_offsetof(struct dp_header, flags) == 6, "dp_header.flags");
_Static_assert(__builtin_offsetof(struct dp_header, payload_len) == 8, "dp_header.payload_len");
_Static_assert(__builtin_offsetof(struct dp_header, request_id) == 12, "dp_header.request_id");
_Static_assert(__builtin_offsetof(struct dp_header, lease_id) == 16, "dp_header.lease_id");
_Static_assert(__builtin_offsetof(struct dp_header, nonce) == 32, "dp_header.nonce");
_Static_assert(__builtin_offsetof(struct dp_header, auth_tag) == 40, "dp_header.auth_tag");

/* constants of one loaded program (fabricbios/dataplane/xdp_layout.py) */
struct xdp_config {
	__u16 fbmu_port; /* network order; 0 takes no port */
	__u16 fbbu_port; /* network order; 0 takes no port */
	__u32 record; /* enum counter_record: which counters this program adds to */
	__u64 slab_bytes; /* leased bytes in one slab; its value is SLAB_MARGIN longer */
	__u32 index_mask; /* entries of the index less one */
	__u32 index_shift; /* 64 less the bits of index_mask */
};
_Static_assert(sizeof(struct xdp_config) == 24, "xdp_config");
_Static_assert(__builtin_offsetof(struct xdp_config, fbmu_port) == 0, "xdp_config.fbmu_port");
_Static_assert(__builtin_offsetof(struct xdp_config, fbbu_port) == 2, "xdp_config.fbbu_port");
_Static_assert(__builtin_offsetof(struct xdp_config, record) == 4, "xdp_config.record");
_Static_assert(__builtin_offsetof(struct xdp_config, slab_bytes) == 8, "xdp_config.slab_bytes");
_Static_assert(__builtin_offsetof(struct xdp_config, index_mask) == 16, "xdp_config.index_mask");
_Static_assert(__builtin_offsetof(struct xdp_config, index_shift) == 20, "xdp_config.index_shift");

#endif
