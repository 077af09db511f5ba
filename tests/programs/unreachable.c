// Calls where nobody answers, and is told by the network that there is no way: the answer is made here, as a router would
// send it (RFC 792, "Destination Unreachable", code 1), from the segment that was sent. Arguments: port of a listener on
// 127.0.0.1 that drops calls. Says outcome=ERRNO.
#define _GNU_SOURCE // strerrorname_np
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned short checksum(const unsigned char *bytes, size_t length) {
    unsigned long sum = 0;
    for (size_t at = 0; at + 1 < length; at += 2)
        sum += bytes[at] << 8 | bytes[at + 1];
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return htons(~sum);
}

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int segments = socket(AF_INET, SOCK_RAW, IPPROTO_TCP), network = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    int caller = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = address.sin_addr};
    socklen_t length = sizeof own;
    if (segments < 0 || network < 0 || bind(caller, (struct sockaddr *)&own, length) ||
        getsockname(caller, (struct sockaddr *)&own, &length))
        return 1;
    if (connect(caller, (struct sockaddr *)&address, sizeof address) == 0 || errno != EINPROGRESS)
        return 1;
    struct {
        struct icmphdr head;
        unsigned char quoted[sizeof(struct iphdr) + 8];
    } answer = {.head = {.type = ICMP_DEST_UNREACH, .code = ICMP_HOST_UNREACH}};
    unsigned char packet[2000];
    struct tcphdr *segment = (struct tcphdr *)(packet + sizeof(struct iphdr));
    do {
        if (recv(segments, packet, sizeof packet, 0) < (ssize_t)(sizeof(struct iphdr) + sizeof *segment))
            return 1;
    } while (segment->source != own.sin_port || !segment->syn);
    memcpy(answer.quoted, packet, sizeof answer.quoted);
    answer.head.checksum = checksum((unsigned char *)&answer, sizeof answer);
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_addr = address.sin_addr};
    if (sendto(network, &answer, sizeof answer, 0, (struct sockaddr *)&host, sizeof host) != sizeof answer)
        return 1;
    struct pollfd end = {.fd = caller, .events = POLLOUT};
    int reason = 0;
    length = sizeof reason;
    if (poll(&end, 1, 10000) != 1 || getsockopt(caller, SOL_SOCKET, SO_ERROR, &reason, &length))
        return 1;
    printf("outcome=%s\n", strerrorname_np(reason));
}
