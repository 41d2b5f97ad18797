// HTTP/2 heads that section 8 of RFC 9113 lets a proxy refuse, and odd ones that pass, through a running sidecar in
// front of an app that records every byte: the app receives what the vector has, byte by byte, and nothing of a refused
// request.

import t from 'tap';
import { HpackDecoder } from '../../sidecar/protocol/http2/hpack-decode.ts';
import { type Frame, hello, speak } from '../fixtures/http2-raw.ts';
import { http2Vectors, vectorFrames } from '../fixtures/http2-vectors.ts';
import { asArrived, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';

const [headers, reset] = [1, 3];
const isAnswer = ({ type, stream }: Frame): boolean => stream === 1 && (type === headers || type === reset);

t.test('heads in HTTP/2', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    const body = soFar.slice(soFar.indexOf('\r\n\r\n') + 4);
    if (!/transfer-encoding/i.test(soFar) || /(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n$/.test(body))
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  for (const vector of http2Vectors) {
    const before = backend.received.length;
    const frames = await speak(mesh.inPort, mesh.authority, peer, Buffer.concat([hello, vectorFrames(vector)]), (all) =>
      all.some(isAnswer),
    );
    const answer = frames.find(isAnswer);
    t.equal(answer === undefined ? 'nothing' : describe(answer), vector.verdict, vector.name);
    t.equal(asArrived(backend.received.slice(before)), vector.arrives ?? '', `${vector.name}: the received bytes`);
  }
});

function describe({ type, payload }: Frame): string {
  if (type === reset) return `reset ${payload.readUInt32BE(0)}`;
  const { fields } = new HpackDecoder(100_000, 200).decode(payload);
  return fields.values[0]!;
}
