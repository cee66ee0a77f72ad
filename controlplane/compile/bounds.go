package compile

import "time"

// The bounds of what one object may bring along: docs/limits.md has them in a table, with those of Kubernetes and
// OpenShift beside them. Beyond one a Route is refused, alone, by verdict, except where a comment says otherwise.
//
// They hold for every router, whatever its release of HAProxy and its IngressController's tuning: HAProxy's buffer
// (tune.bufsize) may be as small as 16,384 bytes, and answers of its runtime socket are as large at most.
const (
	// maxPEM is how long the text of one field may be, in bytes, before it is looked at.
	maxPEM = 512 << 10
	// maxBlocks is how many PEM blocks one field may have: each costs parsing, however small it is.
	maxBlocks = 1024
	// maxKeys is how many private keys one field may have: to check one of RSA costs some milliseconds.
	maxKeys = 4
	// maxKey is how long a private key may be, in bytes of DER. One of RSA with 8,192 bits has 4.7 kB.
	maxKey = 8 << 10

	// OpenSSL's security level 2, HAProxy's default in Debian, wants 112 bits of strength: it counts so many for RSA
	// keys from here on.
	minRSABits = 2047
	// TLS clients written in Go take no longer RSA keys, and a handshake holds one of HAProxy's threads: 4 ms with
	// 4,096 bits, 35 ms with 7,680 and 190 ms with 15,360, for everybody who is served by it.
	maxRSABits = 8192
	// The same level 2 for DSA keys: bits of the prime and of the subgroup.
	minDSABits, minDSASubgroupBits = 2048, 224

	// maxChain is how many certificates a chain may have, caCertificate counted. Clients get all of them with each
	// handshake; many take no more than ten. crypto/x509 looks at no more than 100 signatures to verify a chain.
	maxChain = 32
	// maxChainBytes is how long a chain may be, in bytes of PEM. What fits HAProxy's buffer, key included, goes there by a
	// command, and what is longer by a file and a reload.
	maxChainBytes = 64 << 10
	// maxVerifying is how long it may take to verify a chain, in microseconds, as verifying estimates it. A chain that
	// takes longer is not verified, with a warning, since one goroutine compiles for everybody: 32 certificates with keys
	// of P-521 took 300 ms.
	maxVerifying = 2000
	// maxBundle and maxBundleCertificates are for CA certificates: the public ones of the world are 150, with 230 kB
	// of PEM.
	maxBundle, maxBundleCertificates = 384 << 10, maxBlocks
	// maxLists is how long the revocation lists of a bundle may be, in bytes of PEM.
	maxLists = 384 << 10

	// maxKept is how much stays in use of a namespace's Secrets that vanished or cannot be used, in bytes of PEM: some
	// 2,000 certificates with their keys. Without a bound one could delete Secrets to have more than a quota of them
	// allows. Beyond it a Route is refused whose Secret vanishes.
	maxKept = 16 << 20

	// maxNames is how many bytes HAProxy may print of the names in a chain, and in each certificate of a bundle: they
	// have to fit into one answer, with 2,048 bytes for the rest of it. An answer that does not fit is cut, and what
	// HAProxy serves cannot be told any more.
	maxNames = 16<<10 - 2048
	// maxSerial is how long a serial number may be, in bytes: RFC 5280 allows 20. HAProxy 2.6, 3.0 and 3.4 print it
	// without looking at what is left of the buffer, and a number of 8,180 bytes crashed them.
	maxSerial = 64

	// maxEndpoints and maxEndpointsBytes are how many endpoints of a Service's port travel, and in how many bytes: a
	// frame of the stream has 1 MiB, and each endpoint is a server of HAProxy's, with 5 kB or more, for each Route. Beyond them the
	// Route is not refused: the others get no requests, and the verdict warns.
	maxEndpoints, maxEndpointsBytes = 5000, 640 << 10
	// maxServers is how many servers all Routes of a namespace are for a router: an endpoint is one for each Route that
	// leads to its Service, and takes 5 kB of HAProxy's memory, 23 kB with TLS. Beyond it fewer endpoints travel of the
	// Services that have most: half as many, or a quarter, and so on. leastEndpoints travel of each in any case.
	maxServers, leastEndpoints = 50_000, 20
	// maxCollected is how many addresses of a Service's EndpointSlices are looked at, in the order of their names: each
	// of 1,000 endpoints in a slice may have 100 addresses and 100 ports.
	maxCollected = 4 * maxEndpoints

	// maxHeaderBytes is how long the values of a list of header actions may be together: with all of them no message
	// would fit into HAProxy's buffer. OpenShift's API allows 20 of 16,384 bytes.
	maxHeaderBytes = 32 << 10
	// maxSources is how many networks an allow list may have: each is a command to HAProxy, or a line in a file.
	maxSources = 16384
	// maxWarnings is how many warnings a verdict has.
	maxWarnings = 32
)

// minCheckInterval is the shortest interval of health checks, as OpenShift's operator has it for an IngressController:
// each endpoint is a connection from each router. Shorter ones become this one, with a warning.
const minCheckInterval = time.Second
