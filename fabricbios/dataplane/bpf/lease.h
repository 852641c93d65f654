/* SPDX-License-Identifier: Apache-2.0 */
/* From a lease id to its slot. */
#ifndef FABRICBIOS_LEASE_H
#define FABRICBIOS_LEASE_H

#include "maps.h"
#include "protocol.h"

#define PROBES 32 /* a quarter of the index is in use, so chains are short */
#define INDEX_SPREAD 0x9e3779b97f4a7c15ull
#define INDEX_EMPTY 0
#define INDEX_FIRST 2

/* A slot that is free may still hold the id: its lease has another one since it was given another key. */
static __always_inline struct lease_slot *slot_with(__u32 number, __u64 high, __u64 low)
{
	struct lease_slot *slot = bpf_map_lookup_elem(&slots, &number);
	__u64 *id;

	if (!slot || *(volatile __u64 *)&slot->state == SLOT_STATE_FREE)
		return 0;
	id = (__u64 *)slot->lease_id;
	return id[0] == high && id[1] == low ? slot : 0;
}

/* Find the slot of a lease, and its number: SlotIndex.find of index.py. `id` is two words as in the datagram. */
static __always_inline struct lease_slot *lease_find(const __u64 *id, __u32 *number)
{
	__u64 high = id[0], low = id[1], mask = config.index_mask;
	__u64 at = ((bpf_be64_to_cpu(high) ^ bpf_be64_to_cpu(low)) * INDEX_SPREAD) >> config.index_shift;
	__u32 zero = 0, *entries = bpf_map_lookup_elem(&lease_index, &zero);
	struct lease_slot *slot;

	if (!entries)
		return 0;
	for (int i = 0; i < PROBES; i++, at++) {
		__u64 here = at & mask;
		__u32 entry;

		FORGET(here);
		if (here > mask)
			return 0;
		entry = *(volatile __u32 *)(entries + here);
		if (entry == INDEX_EMPTY)
			return 0;
		*number = entry - INDEX_FIRST;
		slot = slot_with(*number, high, low);
		if (slot)
			return slot;
	}
	return 0;
}

#endif
