// The admission webhook: AdmissionReviews over HTTPS, with the certificate of our own agent. Anyone in the cluster may
// connect; what they send is bounded, changes nothing here, and is answered with nothing secret.

import { constants } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type ServerOptions } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Address } from '../../cert-agent/base/address.ts';
import { listenError } from '../../cert-agent/base/admin.ts';
import { reportBackground } from '../../cert-agent/base/background.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import type { InjectOptions } from './inject.ts';
import { answerReview, type FailurePolicy, NoReview } from './review.ts';
import { makeRoom, type Room, type RoomLimits } from './room.ts';

export interface WebhookOptions {
  readonly listen: Extract<Address, { host: string }>;
  /** Our SVID, and the bundle that pods get. */
  readonly identity: Live<Identity | undefined>;
  /** What pods get besides. */
  readonly pods: Pick<InjectOptions, 'caUrl' | 'image' | 'audience'>;
  /** Default Fail: a pod that should have a sidecar must not run without, or its port would be open to everyone. */
  readonly failurePolicy?: FailurePolicy;
  /** The DNS name by which the API server calls us. */
  readonly service: string;
  /** What readiness waits for besides an SVID; undefined: nothing. */
  waitingFor?(): string | undefined;
  readonly log: Log;
  /** Default 1024 connections, 64 MB of bodies. */
  readonly limits?: Partial<RoomLimits>;
}

export interface Webhook {
  readonly address: Extract<Address, { host: string }>;
  /** Requests answered so far, by outcome. */
  readonly counts: Readonly<Record<string, number>>;
  /** Finishes requests in flight, then closes. */
  close(): Promise<void>;
}

/** An API server takes requests of 3 MB; a review has the object, and around it some kilobytes. */
const maxBodyBytes = 4 * 1_048_576;
/** Bodies that are read at once; the API server has 500 pods in flight at most times far fewer. */
const maxInFlight = 1024;
const maxConnections = 1024;
/** Bytes of bodies that are held at once. */
const maxHeldBytes = 64 * 1_048_576;
/** `timeoutSeconds` of a webhook is 10 by default. */
const requestMs = 10_000;

/** Starts it. @throws SallyportError `port_in_use` or `listen_failed`. */
export async function startWebhook(options: WebhookOptions): Promise<Webhook> {
  const { identity, log, listen, service } = options;
  const counts: Record<string, number> = {};
  let warned = '';
  const server = createServer(
    {
      ...tlsOptions(identity.current()),
      ...{
        requestTimeout: requestMs,
        headersTimeout: 5000,
        keepAliveTimeout: 120_000,
        connectionsCheckingInterval: 2000,
      },
      maxHeaderSize: 16_384,
    },
    (request, response) => {
      answer(request, response).catch((error: unknown) => {
        // A client that has gone is nothing to report.
        if (!(error instanceof SallyportError)) reportBackground('webhook', error);
        response.destroy();
      });
    },
  );
  const room = makeRoom(server, { connections: maxConnections, bytes: maxHeldBytes, ...options.limits });
  server.on('tlsClientError', (_, socket) => socket.destroy());
  // Before TLS a socket has no owner but us.
  server.on('connection', (socket: Socket) => socket.on('error', () => socket.destroy()));
  const stopRotation = identity.onChange(() => rotate());
  rotate();
  let reading = 0;
  /** What pods get, for as long as the identity is the same. */
  let pods: { of: Identity | undefined; options: Omit<InjectOptions, 'namespace'> } = podsOf(undefined);

  function podsOf(of: Identity | undefined): typeof pods {
    const trustDomain = of?.svid.id.trustDomain ?? '';
    const caBundle = formatPem(of?.bundles.get(trustDomain)?.roots ?? []);
    return { of, options: { ...options.pods, trustDomain, caBundle } };
  }

  function rotate(): void {
    const now = identity.current();
    server.setSecureContext(tlsOptions(now));
    const [leaf] = now?.svid.chain ?? [];
    if (leaf === undefined || readCertificateFacts(leaf).dns.includes(service) || warned === now?.svid.serial) return;
    warned = now?.svid.serial ?? '';
    log.error(
      { code: 'webhook_name_missing', name: service },
      `our certificate lacks the name ${service}, so that the API server will refuse it: start the CA with --kubernetes-dns NAMESPACE/ACCOUNT=${service}, and run ca dns allow ${service}`,
    );
  }

  function waiting(): string | undefined {
    return identity.current() === undefined ? 'an SVID' : options.waitingFor?.();
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    room.touch(request);
    response.once('finish', () => room.touch(request));
    const path = request.url?.split('?', 1)[0];
    if (path === '/healthz/ready' && request.method === 'GET') {
      const what = waiting();
      return send(response, what === undefined ? 200 : 503, what === undefined ? 'ready\n' : `waiting for ${what}\n`);
    }
    if (path !== '/inject') return refuse(request, response, 404, 'no such page: POST /inject');
    if (request.method !== 'POST') return refuse(request, response, 405, 'use POST');
    if (!/^application\/json(?:;|$)/.test(request.headers['content-type'] ?? ''))
      return refuse(request, response, 415, 'the content type is application/json');
    const now = identity.current();
    if (now === undefined) return refuse(request, response, 503, 'there is no SVID yet');
    if (reading >= maxInFlight) return refuse(request, response, 503, 'too many requests at once');
    reading++;
    try {
      const body = await readBody(request, room);
      if (body === undefined) return refuse(request, response, 413, `the body is larger than ${maxBodyBytes} bytes`);
      review(response, body, now);
    } finally {
      reading--;
    }
  }

  function review(response: ServerResponse, text: string, now: Identity): void {
    try {
      if (pods.of !== now) pods = podsOf(now);
      const done = answerReview(JSON.parse(text), pods.options, options.failurePolicy ?? 'Fail');
      count(done.outcome);
      if (done.outcome === 'refused' || done.outcome === 'failed')
        log.warn({ code: 'injection_refused', pod: done.pod, reason: done.reason }, `${done.pod}: ${done.reason}`);
      send(response, 200, JSON.stringify(done.body), 'application/json');
    } catch (error) {
      if (!(error instanceof NoReview || error instanceof SyntaxError)) throw error;
      count('garbage');
      send(response, 400, `${error instanceof NoReview ? error.message : 'the body is not JSON'}\n`);
    }
  }

  function refuse(request: IncomingMessage, response: ServerResponse, status: number, why: string): void {
    count('garbage');
    // What is still to come is not read.
    response.setHeader('connection', 'close');
    send(response, status, `${why}\n`);
    request.resume();
    setTimeout(() => request.destroy(), 1000).unref();
  }

  function count(outcome: string): void {
    counts[outcome] = (counts[outcome] ?? 0) + 1;
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, listen)));
    server.listen(listen.port, listen.host, resolve);
  });
  const { address, port } = server.address() as AddressInfo;
  log.info({ code: 'listening', address: `${address}:${port}` }, 'the webhook is listening');
  return {
    address: { host: address, port },
    counts,
    async close() {
      stopRotation();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const late = setTimeout(() => server.closeAllConnections(), requestMs);
      await closed;
      clearTimeout(late);
    },
  };
}

/** Without an SVID the handshake fails: there is no certificate to show. */
function tlsOptions(identity: Identity | undefined): ServerOptions {
  const own = identity === undefined ? {} : { cert: identity.svid.chainPem, key: identity.svid.keyPem };
  return {
    ...own,
    ...{ ALPNProtocols: ['http/1.1'], handshakeTimeout: 5000, minVersion: 'TLSv1.3' },
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  };
}

function send(response: ServerResponse, status: number, text: string, type = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) }).end(text);
}

/** The body as text; undefined for one that is too large, or too much with those of others. */
async function readBody(request: IncomingMessage, room: Room): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > maxBodyBytes || !room.take(request, part.length)) return undefined;
      parts.push(part);
    }
  } catch {
    throw new SallyportError('body_invalid', 'the body ended early');
  } finally {
    room.release(request);
  }
  return Buffer.concat(parts, size).toString('utf8');
}
