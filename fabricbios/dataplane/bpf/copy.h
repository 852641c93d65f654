/* SPDX-License-Identifier: Apache-2.0 */
/* Between the packet and leased memory. */
#ifndef FABRICBIOS_COPY_H
#define FABRICBIOS_COPY_H

#include "maps.h"
#include "protocol.h"

#define FEW_BYTES 128

enum copy_way { TO_MEMORY, TO_PACKET };

/*
 * Find `address`, which counts through all slabs. `length` becomes what of it lies in this slab. What may be touched
 * behind the pointer is SLAB_MARGIN bytes, wherever in the slab it points.
 */
static __always_inline void *find_leased(__u64 address, __u64 *length)
{
	__u32 number = address / SLAB_BYTES, zero = 0;
	__u64 base = address % SLAB_BYTES;
	void *memory, *slab = bpf_map_lookup_elem(&slabs, &number);

	if (!slab)
		return 0;
	memory = bpf_map_lookup_elem(slab, &zero);
	if (!memory || base >= config.slab_bytes)
		return 0;
	if (*length > config.slab_bytes - base)
		*length = config.slab_bytes - base;
	FORGET(base); /* checked in the very register that is added: 6.1 loses the bound over a spill */
	if (base >= config.slab_bytes)
		return 0;
	return memory + base;
}

/*
 * Copy what lies in one slab of the `length` (1..2048) bytes at `address`, which counts through all slabs, from or to
 * offset `packet` of the frame. Returns how many bytes, or -1.
 */
static __noinline int copy_in_slab(struct xdp_md *ctx, __u64 address, __u64 length, __u64 packet, __u32 way)
{
	void *memory = find_leased(address, &length);

	if (!memory)
		return -1;
	BOUND(length, 2048);
	if (way == TO_MEMORY ? bpf_xdp_load_bytes(ctx, packet, memory, length) :
			       bpf_xdp_store_bytes(ctx, packet, memory, length))
		return -1;
	return length;
}

/*
 * Copy few whole words to offset `packet` of the frame, which is what most READs ask for: a hash can read these at once,
 * and what memcpy wrote only when it has reached the cache. -1 for anything else.
 */
static __noinline int copy_words(struct xdp_md *ctx, __u64 address, __u64 length, __u64 packet)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 here = length, *to, *from;

	if (length & 7 || length > FEW_BYTES || packet > 2047)
		return -1;
	from = find_leased(address, &here);
	to = data + packet;
	if (!from || here != length)
		return -1;
	for (__u64 done = 8; done <= length; done += 8) {
		if ((void *)(to + 1) > end)
			return -1;
		*to++ = *from++;
		PLAIN_STEP(done, to);
		FORGET(from);
	}
	return 0;
}

/* Copy bytes that were found to be inside the lease; they cross the end of one slab at most. */
static __always_inline int copy_leased(struct xdp_md *ctx, __u64 address, __u64 length, __u64 packet, __u32 way)
{
	long done;

	if (way == TO_PACKET && !copy_words(ctx, address, length, packet))
		return 0;
	done = copy_in_slab(ctx, address, length, packet, way);
	if (done < 0 || (__u64)done == length)
		return done < 0 ? -1 : 0;
	return copy_in_slab(ctx, address + done, length - done, packet + done, way) < 0 ? -1 : 0;
}

#endif
