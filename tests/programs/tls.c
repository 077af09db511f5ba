// Postgres behind TLS by OpenSSL, called by hand. Arguments:
//
// ask PORT DATABASE HOW QUERIES   says `ready`, waits for a line, then sends `select 1` so often and reads each answer to
//                                 ReadyForQuery. HOW: `asked` sends SSLRequest first, `direct` begins with TLS (PostgreSQL 17,
//                                 sslnegotiation=direct)
// relay PORT CERTIFICATE KEY      takes one connection that begins with TLS and passes on what is behind it to PORT in plain
//                                 text. Says port=N, and ends with the connection
// Compiled with -DEX it calls SSL_read_ex and SSL_write_ex.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int take(SSL *tls, void *bytes, int room) {
#ifdef EX
    size_t taken = 0;
    return SSL_read_ex(tls, bytes, room, &taken) ? (int)taken : 0;
#else
    return SSL_read(tls, bytes, room);
#endif
}

static void give(SSL *tls, const void *bytes, int length) {
#ifdef EX
    size_t given = 0;
    if (!SSL_write_ex(tls, bytes, length, &given) || (int)given != length)
        fail("SSL_write_ex");
#else
    if (SSL_write(tls, bytes, length) != length)
        fail("SSL_write");
#endif
}

static int connected(int port) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&server, sizeof server))
        fail("connect");
    return connection;
}

static void until_ready(SSL *tls) {
    static unsigned char said[65536];
    int length = 0;
    while (length < 6 || memcmp(said + length - 6, "Z\0\0\0\5I", 6)) {
        int more = take(tls, said + length, sizeof said - length);
        if (more <= 0)
            fail("the server hung up");
        length += more;
    }
}

static int ask(int port, const char *database, int direct, int queries) {
    puts("ready");
    fflush(stdout);
    getchar();
    int connection = connected(port);
    char answer = 0;
    if (!direct && (write(connection, "\0\0\0\10\4\322\26\57", 8) != 8 || read(connection, &answer, 1) != 1 || answer != 'S'))
        fail("no TLS");
    SSL *tls = SSL_new(SSL_CTX_new(TLS_client_method()));
    if (direct)
        SSL_set_alpn_protos(tls, (const unsigned char *)"\12postgresql", 11);
    SSL_set_fd(tls, connection);
    if (SSL_connect(tls) != 1)
        fail("SSL_connect");
    unsigned char startup[256] = {0, 0, 0, 0, 0, 3, 0, 0};
    int length = 8 + snprintf((char *)startup + 8, sizeof startup - 9, "user%cpostgres%cdatabase%c%s%c", 0, 0, 0, database, 0) + 1;
    startup[3] = length;
    give(tls, startup, length);
    until_ready(tls);
    for (int nth = 0; nth < queries; nth++) {
        give(tls, "Q\0\0\0\15select 1\0", 14);
        until_ready(tls);
    }
    give(tls, "X\0\0\0\4", 5);
    SSL_shutdown(tls);
    return 0;
}

static int relay(int port, const char *certificate, const char *key) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&own, length) || listen(listener, 1) || getsockname(listener, (struct sockaddr *)&own, &length))
        fail("listen");
    printf("port=%d\n", ntohs(own.sin_port));
    fflush(stdout);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        fail("certificate");
    int client = accept(listener, NULL, NULL), server = connected(port);
    SSL *tls = SSL_new(context);
    SSL_set_fd(tls, client);
    if (SSL_accept(tls) != 1)
        fail("SSL_accept");
    struct pollfd either[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
    static char bytes[16384];
    for (;;) {
        if (!SSL_pending(tls) && poll(either, 2, -1) < 0)
            fail("poll");
        if (SSL_pending(tls) || either[0].revents) {
            int some = take(tls, bytes, sizeof bytes);
            if (some <= 0)
                return 0;
            if (write(server, bytes, some) != some)
                fail("write");
        }
        if (either[1].revents) {
            int some = read(server, bytes, sizeof bytes);
            if (some <= 0)
                return 0;
            give(tls, bytes, some);
        }
        either[0].revents = either[1].revents = 0;
    }
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 6 && !strcmp(arguments[1], "ask"))
        return ask(atoi(arguments[2]), arguments[3], !strcmp(arguments[4], "direct"), atoi(arguments[5]));
    if (count == 5 && !strcmp(arguments[1], "relay"))
        return relay(atoi(arguments[2]), arguments[3], arguments[4]);
    return 2;
}
