/* SPDX-License-Identifier: Apache-2.0 */
/* Between the packet and leased memory. */
#ifndef FABRICBIOS_COPY_H
#define FABRICBIOS_COPY_H

#include "maps.h"
#include "protocol.h"

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

/* Copy bytes that were found to be inside the lease; they cross the end of one slab at most. */
static __always_inline int copy_leased(struct xdp_md *ctx, __u64 address, __u64 length, __u64 packet, __u32 way)
{
	long done = copy_in_slab(ctx, address, length, packet, way);

	if (done < 0 || (__u64)done == length)
		return done < 0 ? -1 : 0;
	return copy_in_slab(ctx, address + done, length - done, packet + done, way) < 0 ? -1 : 0;
}

#endif
