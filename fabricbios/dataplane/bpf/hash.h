/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the block hashes work on. They are global functions: the verifier walks such a function once, for any caller,
 * where it would walk a static one again at every call (24 blocks of 3,000 instructions, twice a packet: too much for
 * it). The price is that it takes their pointers for possibly null, so they ask.
 */
#ifndef FABRICBIOS_HASH_H
#define FABRICBIOS_HASH_H

#include <linux/types.h>

struct hash_state {
	union {
		__u32 word[8];
		__u64 pair[4];
	};
};

struct hash_block {
	union {
		__u32 word[16];
		__u64 pair[8];
	};
};

#endif
