// Kind 1, forms: method x form of target x protocol version x side, each cell tried on a running sidecar or gateway. A
// second request follows each, which would reach the app unseen if the first has opened a tunnel that it should not
// have.

import { connect as connectPlain, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { startTestGateway } from '../fixtures/gateway.ts';
import { block, frame, hello } from '../fixtures/http2-raw.ts';
import { allowAll, type Backend, startBackend, startMesh } from '../fixtures/mesh.ts';
import { type Authority, type Credential, createCredential } from '../fixtures/pki.ts';
import type { Owner } from '../fixtures/process.ts';

type Side = 'inbound' | 'outbound' | 'gateway';
type Version = '1.0' | '1.1' | '2' | '2 with :protocol';
type Form = 'origin' | 'absolute http' | 'absolute https' | 'authority' | 'authority without port' | 'asterisk';

const sides: readonly Side[] = ['inbound', 'outbound', 'gateway'];
const versions: readonly Version[] = ['1.0', '1.1', '2', '2 with :protocol'];
const forms: readonly Form[] = [
  'origin',
  'absolute http',
  'absolute https',
  'authority',
  'authority without port',
  'asterisk',
];
const methods = ['CONNECT', 'OPTIONS', 'TRACE', 'GET', 'POST', 'PURGE'] as const;

/** A host that each side serves: the outbound upstream, the gateway's route, and for inbound any. */
const host = 'orders.shop.svc';

const targets: Readonly<Record<Form, string>> = {
  origin: '/x',
  'absolute http': `http://${host}/x`,
  'absolute https': `https://${host}/x`,
  authority: `${host}:80`,
  'authority without port': host,
  asterisk: '*',
};

/**
 * The expected outcome of a cell: `served` by the app as one request, a `tunnel`, or `refused` with a status of ours,
 * `reset` or `closed`. Written independently here, not derived from the code.
 */
function expected(side: Side, method: string, form: Form, version: Version): RegExp {
  if (version === '2 with :protocol') {
    // RFC 8441: CONNECT with a path only. Not even a malformed one is a tunnel.
    if (method !== 'CONNECT') return /^reset$/;
    return form === 'origin' ? /^(?:served|refused)/ : /^(?:reset|refused 400)$/;
  }
  if (method === 'CONNECT') {
    if (version === '2' && form !== 'authority' && form !== 'authority without port') return /^reset$/;
    if (side === 'outbound' && form === 'authority') return /^tunnel$/;
    return side === 'outbound' && form === 'authority without port' ? /^refused 400$/ : /^refused 501$/;
  }
  if (side === 'gateway' && method === 'TRACE' && (version !== '2' || form === 'origin')) return /^refused 405$/;
  if (form === 'origin') return /^served$/;
  if (form === 'asterisk') {
    if (method !== 'OPTIONS') return /^refused 400$/;
    return side === 'gateway' ? /^refused 204$/ : /^served$/;
  }
  if (form === 'absolute http' && version !== '2') return /^served$/;
  return /^refused 400$/;
}

interface Door {
  readonly side: Side;
  readonly open: (http2: boolean) => Socket;
}

t.test('every cell of the table', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    const requests = soFar.split('\r\n\r\n').length - 1;
    const answered = answers.get(socket) ?? 0;
    answers.set(socket, requests);
    for (let i = answered; i < requests; i++) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const answers = new WeakMap<Socket, number>();
  const mesh = await startMesh(t, { app: app.port, policy: allowAll });
  const gateway = await startTestGateway(t, {
    documents: routeTo(app.port),
    listeners: ['edge/gw:80'],
    yaml: `upstreams:\n  app: { endpoints: ["127.0.0.1:${app.port}"] }\nbackends: { edge/app:80: app }\n`,
  });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/caller');
  const doors: readonly Door[] = [
    { side: 'inbound', open: (http2) => openTls(mesh.inPort, mesh.authority, peer, http2) },
    { side: 'outbound', open: () => connectPlain(mesh.outPort, '127.0.0.1') },
    { side: 'gateway', open: () => connectPlain(gateway.port('edge/gw:80'), '127.0.0.1') },
  ];
  for (const side of sides)
    await t.test(side, async (t) => {
      const door = doors.find((one) => one.side === side)!;
      const cells = versions.flatMap((version) =>
        methods.flatMap((method) => forms.map((form) => ({ version, method, form }))),
      );
      await Promise.all(
        cells.map(async ({ version, method, form }, index) => {
          const mark = `${side}-${index}`;
          const got = version.startsWith('2')
            ? await tryHttp2(t, door, method, targets[form], version === '2 with :protocol', mark)
            : await tryHttp1(t, door, method, targets[form], version, mark);
          const verdict = judge(got, app, mark);
          t.match(verdict, expected(side, method, form, version), `HTTP/${version} ${method} ${targets[form]}`);
        }),
      );
    });
});

t.test('a refused CONNECT that looks like gRPC is not answered 200', async (t) => {
  const app = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: app.port });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/caller');
  const socket = openTls(mesh.inPort, mesh.authority, peer, false);
  const answer = await gather(
    socket,
    `CONNECT ${host}:80 HTTP/1.1\r\nHost: ${host}:80\r\nContent-Type: application/grpc\r\n\r\n`,
  );
  t.match(answer.toString('latin1'), /^HTTP\/1\.1 501 /);
  t.equal(app.received.length, 0);
  const [record] = await mesh.records('orders', 1);
  t.match(record, { method: 'CONNECT', response_code: 501, response_code_details: 'upgrade_failed' });
});

interface Got {
  /** HTTP status, `reset`, or `closed` without a response. */
  readonly answer: number | 'reset' | 'closed';
}

function judge({ answer }: Got, app: Backend, mark: string): string {
  const arrived = app.received.map((one) => one.toString('latin1')).join('\n');
  const unseen = arrived.includes(`GET /behind-${mark} HTTP/1.1\r\n`);
  const served = new RegExp(`\\r\\nx-mark: ${mark}\\r\\n`).test(arrived);
  if (unseen) return 'tunnel';
  if (typeof answer === 'string') return served ? `served, then ${answer}` : answer;
  if (served) return answer === 200 ? 'served' : `served, answered ${answer}`;
  return `refused ${answer}`;
}

async function tryHttp1(
  t: Owner,
  door: Door,
  method: string,
  target: string,
  version: string,
  mark: string,
): Promise<Got> {
  const socket = door.open(false);
  t.teardown(() => socket.destroy());
  const close = method === 'CONNECT' ? '' : 'Connection: close\r\n';
  const behind = `GET /behind-${mark} HTTP/1.1\r\nhost: unseen\r\n\r\n`;
  const text = await gather(
    socket,
    `${method} ${target} HTTP/${version}\r\nHost: ${host}\r\nx-mark: ${mark}\r\n${close}\r\n${behind}`,
    (soFar) => /\r\n\r\n[\s\S]*200 OK[\s\S]*ok$/.test(soFar.toString('latin1')),
  );
  const status = /^HTTP\/1\.1 (\d{3})/.exec(text.toString('latin1'))?.[1];
  return { answer: status === undefined ? 'closed' : Number(status) };
}

async function tryHttp2(
  t: Owner,
  door: Door,
  method: string,
  target: string,
  protocol: boolean,
  mark: string,
): Promise<Got> {
  const socket = door.open(true);
  t.teardown(() => socket.destroy());
  const isAuthority = !/^[/*]|:\/\//.test(target);
  const pseudo: [string, string][] = [
    [':method', method],
    ...(method === 'CONNECT' && !protocol && isAuthority
      ? ([[':authority', target]] as [string, string][])
      : ([
          [':scheme', 'http'],
          [':authority', host],
          [':path', target],
        ] as [string, string][])),
    ...(protocol ? ([[':protocol', 'websocket']] as [string, string][]) : []),
  ];
  const opens = method === 'CONNECT';
  const head = frame(1, opens ? 4 : 5, 1, block([...pseudo, ['x-mark', mark]]));
  const behind = opens
    ? frame(0, 0, 1, Buffer.from(`GET /behind-${mark} HTTP/1.1\r\nhost: unseen\r\n\r\n`))
    : Buffer.alloc(0);
  let answer: Got['answer'] = 'closed';
  await gather(socket, Buffer.concat([hello, head, behind]), (soFar) => {
    for (const { type, payload } of framesOf(soFar)) {
      if (type === 3 && answer === 'closed') answer = 'reset';
      if (type === 1 && answer === 'closed') answer = statusOf(payload);
      // For a tunnel the response to the following request is awaited too.
      if (type === 3 || (type === 0 && !opens)) return true;
      if (type === 0 && payload.includes('200 OK')) return true;
      if (type === 1 && answer !== 200) return true;
    }
    return false;
  });
  return { answer };
}

/** A status from the first field of a block of ours: indexed (RFC 7541 appendix A), or a literal of the name at 8. */
function statusOf(payload: Buffer): number {
  const indexed = [200, 204, 206, 304, 400, 404, 500][(payload[0]! & 0x7f) - 8];
  if (payload[0]! >= 0x80 && indexed !== undefined) return indexed;
  const text = payload.subarray(2, 2 + (payload[1]! & 0x7f));
  return payload[1]! >= 0x80 ? huffmanDigits(text) : Number(text.toString('latin1'));
}

/** The digits in HPACK's Huffman code, RFC 7541 appendix B. */
function huffmanDigits(bytes: Buffer): number {
  const codes = ['00000', '00001', '00010', '011001', '011010', '011011', '011100', '011101', '011110', '011111'];
  let bits = [...bytes].map((one) => one.toString(2).padStart(8, '0')).join('');
  let digits = '';
  while (digits.length < 3) {
    const digit = codes.findIndex((code) => bits.startsWith(code));
    if (digit === -1) throw new Error(`no digits in ${bytes.toString('hex')}`);
    digits += digit;
    bits = bits.slice(codes[digit]!.length);
  }
  return Number(digits);
}

function* framesOf(bytes: Buffer): Generator<{ type: number; payload: Buffer }> {
  let at = 0;
  while (bytes.length >= at + 9 && bytes.length >= at + 9 + bytes.readUIntBE(at, 3)) {
    const size = bytes.readUIntBE(at, 3);
    yield { type: bytes[at + 3]!, payload: bytes.subarray(at + 9, at + 9 + size) };
    at += 9 + size;
  }
}

function openTls(port: number, authority: Authority, peer: Credential, http2: boolean): Socket {
  return connectTls({
    ...{ host: '127.0.0.1', port, ca: authority.bundlePem, checkServerIdentity: () => undefined },
    ...{ cert: peer.chainPem, key: peer.keyPem, ALPNProtocols: [http2 ? 'h2' : 'http/1.1'] },
  });
}

/** Sends `bytes` and gathers the response until the other side closes or `done` returns true. */
function gather(
  socket: Socket,
  bytes: string | Buffer,
  done: (soFar: Buffer) => boolean = () => false,
): Promise<Buffer> {
  return new Promise((resolve) => {
    let got = Buffer.alloc(0);
    // Otherwise a connection that stays open silently would be the only message of this file.
    const timer = setTimeout(() => socket.destroy(), 10_000);
    socket.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk]);
      if (done(got)) socket.destroy();
    });
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(got);
    });
    socket.write(bytes);
  });
}

function routeTo(port: number): string {
  return `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gw, namespace: edge }
spec: { gatewayClassName: sallyport, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: all, namespace: edge, annotations: { note: "${port}" } }
spec:
  parentRefs: [{ name: gw }]
  rules: [{ backendRefs: [{ name: app, port: 80 }] }]
`;
}
