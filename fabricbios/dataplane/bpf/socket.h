/* SPDX-License-Identifier: Apache-2.0 */
/* Is anybody there to whom a datagram could be left? */
#ifndef FABRICBIOS_SOCKET_H
#define FABRICBIOS_SOCKET_H

#include "packet.h"

/*
 * Say whether a socket is bound to where the datagram goes. The server process and the daemon hold it as long as one of
 * them lives, so without it nobody in user space marks a window or answers for the lease. Who takes the port again
 * waits for the programs that run (XdpPath.quiesce) before he marks a window.
 */
__noinline int has_socket(struct xdp_md *ctx, const struct place *p)
{
	if (!p)
		return 1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (p->ip & OFFSET_MASK);
	struct bpf_sock_tuple to = {};
	struct bpf_sock *found;
	__u32 size;

	if (ip + IPV6_HEADER > end)
		return 1;
	if (p->v6) {
		__builtin_memcpy(to.ipv6.daddr, &((struct ipv6hdr *)ip)->daddr, sizeof(to.ipv6.daddr));
		to.ipv6.dport = p->port;
		size = sizeof(to.ipv6);
	} else {
		to.ipv4.daddr = ((struct iphdr *)ip)->daddr;
		to.ipv4.dport = p->port;
		size = sizeof(to.ipv4);
	}
	found = bpf_sk_lookup_udp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	bpf_sk_release(found);
	return 1;
}

#endif
