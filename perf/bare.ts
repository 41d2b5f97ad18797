// The baseline for an idle connection: a Node TLS server that requests a certificate and does nothing else. Reads the
// certificates as JSON, and prints its port.

import type { AddressInfo } from 'node:net';
import { createServer } from 'node:tls';

const { cert, key, ca } = JSON.parse(process.argv[2] ?? '') as { cert: string; key: string; ca: string };
const server = createServer({ cert, key, ca, requestCert: true, minVersion: 'TLSv1.3' }, (socket) => {
  socket.on('error', () => {});
  socket.resume();
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
