/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ends of a TLS connection in one thread, in memory: `tls_loop CERTIFICATE KEY`. For each
 * number on its input it passes so many messages from one end to the other, each by SSL_write
 * and SSL_read, and prints how many nanoseconds of CPU that took.
 *
 * It declares what it uses of OpenSSL, so that it needs the library and no headers.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct bio_st BIO;

const void *TLS_client_method(void);
const void *TLS_server_method(void);
SSL_CTX *SSL_CTX_new(const void *method);
int SSL_CTX_use_certificate_chain_file(SSL_CTX *context, const char *path);
int SSL_CTX_use_PrivateKey_file(SSL_CTX *context, const char *path, int type);
int BIO_new_bio_pair(BIO **first, size_t first_size, BIO **second, size_t second_size);
SSL *SSL_new(SSL_CTX *context);
void SSL_set_bio(SSL *ssl, BIO *in, BIO *out);
void SSL_set_connect_state(SSL *ssl);
void SSL_set_accept_state(SSL *ssl);
int SSL_do_handshake(SSL *ssl);
int SSL_write(SSL *ssl, const void *data, int size);
int SSL_read(SSL *ssl, void *data, int size);

#define PEM 1 /* SSL_FILETYPE_PEM */
#define MESSAGE_BYTES 256
#define MOST_STEPS 10

static long long spent_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments)
{
	char message[MESSAGE_BYTES], answer[4096];
	SSL_CTX *asks = SSL_CTX_new(TLS_client_method());
	SSL_CTX *serves = SSL_CTX_new(TLS_server_method());
	SSL *client, *server;
	BIO *near, *far;
	long number;

	if (count != 3 || SSL_CTX_use_certificate_chain_file(serves, arguments[1]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(serves, arguments[2], PEM) != 1)
		return 1;
	client = SSL_new(asks);
	server = SSL_new(serves);
	BIO_new_bio_pair(&near, 0, &far, 0);
	SSL_set_bio(client, near, near);
	SSL_set_bio(server, far, far);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	for (int i = 0; i < MOST_STEPS; i++) {
		SSL_do_handshake(client);
		SSL_do_handshake(server);
	}
	SSL_read(client, answer, sizeof(answer)); /* session tickets */
	memset(message, 'x', sizeof(message));
	while (scanf("%ld", &number) == 1) {
		long long began_ns = spent_ns();

		for (long i = 0; i < number; i++) {
			if (SSL_write(client, message, sizeof(message)) != sizeof(message) ||
			    SSL_read(server, answer, sizeof(answer)) != sizeof(message))
				return 1;
		}
		printf("%lld\n", spent_ns() - began_ns);
		fflush(stdout);
	}
	return 0;
}
