/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs share with the daemon. Types and sizes here are for clang alone: the loader
 * (fabricbios/dataplane/xdp_maps.py) creates the maps itself, as large as the configuration says.
 */
#ifndef FABRICBIOS_MAPS_H
#define FABRICBIOS_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "slots_gen.h"

/* Constants of one loaded program, frozen before it is: the verifier sees numbers. */
const volatile struct xdp_config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32[4]);
} lease_index SEC(".maps"); /* lease_id -> slot: fabricbios/dataplane/index.py */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lease_slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slabs SEC(".maps"); /* leased memory, SLAB_BYTES a slab */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dp_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} stations SEC(".maps"); /* ifindex -> the interface's own MAC, its six bytes first */

#endif
