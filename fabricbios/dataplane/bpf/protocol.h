/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of D10 that follow from its tables; the tables themselves are in slots_gen.h. */
#ifndef FABRICBIOS_PROTOCOL_H
#define FABRICBIOS_PROTOCOL_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "slots_gen.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hash words and slots are read in place");

#define HEADER ((int)sizeof(struct dp_header))
#define SIGNED_HEADER ((int)__builtin_offsetof(struct dp_header, auth_tag)) /* bytes 0-39, what every tag covers */
#define PARAMS 12 /* offset u64 and length u32 of READ and WRITE */
#define HELLO_PARAMS 16 /* lease_id */
#define READ_RESP_HEAD 8 /* status, reserved [3], length u32 */
#define STATUS_SIZE 4 /* status, reserved [3]: WRITE_RESP and ERROR */
#define HELLO_ACK_SIZE 20
#define VERSION 1
#define OFFSET_MASK 127 /* all headers of a frame end before that */
#define MAX_DATAGRAM_V4 1472
#define MAX_DATAGRAM_V6 1452
#define MAX_PAYLOAD (MAX_DATAGRAM_V4 - HEADER)

/* The header as it is read: in whole words. clang goes byte by byte through a packed struct that may lie anywhere. */
typedef struct dp_header header_words __attribute__((aligned(8)));

/* Tell the verifier of every kernel that 1 <= x <= limit, a power of two; what is in that range stays as it is. */
#define BOUND(x, limit) asm volatile("%0 += -1; %0 &= %1; %0 += 1" : "+r"(x) : "i"((limit) - 1))

/* Keep a value that the verifier would follow as several constants from doubling the paths behind it. */
#define FORGET(x) asm volatile("" : "+r"(x))

/*
 * Keep a loop's counter and pointer as they are written: LLVM would add to a base in each round, and count down to
 * zero, which tells the verifiers before 6.8 nothing about an end.
 */
#define PLAIN_STEP(counter, pointer) asm volatile("" : "+r"(counter), "+r"(pointer))

/*
 * Read the `rest` (1..7) bytes that end at offset `stop` of the packet, as the low bytes of a word: out of the eight
 * that end there, so there must be so many before it. -1 where the packet is shorter.
 */
static __always_inline int load_rest(void *data, void *end, __u64 stop, __u64 rest, __u64 *word)
{
	__u64 *from;

	stop -= 8;
	FORGET(stop);
	if (stop > 2047)
		return -1;
	from = data + stop;
	if ((void *)(from + 1) > end)
		return -1;
	*word = *from >> (64 - 8 * rest);
	return 0;
}

#endif
