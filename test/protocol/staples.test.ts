// Staples without sockets: which responses are believed, when they are renewed, and what is logged if there is none.

import { randomBytes } from 'node:crypto';
import t from 'tap';
import {
  formatOcspRequest,
  mustStaple,
  responderOf,
  verifyOcspResponse,
} from '../../cert-agent/identity/ocsp-client.ts';
import { fingerprintOf } from '../../cert-agent/identity/verify.ts';
import { Staples } from '../../sidecar/protocol/staples.ts';
import { newKey, serverAuth } from '../fixtures/forge.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import type { Credential } from '../fixtures/pki.ts';
import { type Answering, ca, delegated, namingResponder, ocspSigning, respond } from '../fixtures/responder.ts';

const url = 'http://responder.test/ocsp';
const good = namingResponder(url);
const about = { leaf: good.chain[0]!, issuer: ca.certificate, url };
const request = formatOcspRequest(about);
const now = Date.now();

const verdict = (der: Buffer, at = now): Promise<string> =>
  verifyOcspResponse(der, about, at).then(
    () => 'good',
    ({ code, message }: { code: string; message: string }) => `${code}: ${message}`,
  );

t.test('the fields of a certificate are read', async (t) => {
  t.equal(responderOf(good.chain[0]!), url);
  t.equal(responderOf(namingResponder(undefined).chain[0]!), undefined);
  t.equal(responderOf(namingResponder('ldap://x.test/').chain[0]!), undefined, 'only HTTP');
  t.equal(mustStaple(good.chain[0]!), false);
  t.equal(mustStaple(namingResponder(url, { staple: true }).chain[0]!), true);
});

t.test('which responses are accepted', async (t) => {
  const foreign = newKey();
  const cases: readonly [string, Answering, RegExp][] = [
    ['signed by the issuer', {}, /^good$/],
    ['signed by a delegated signer', { signer: delegated(ocspSigning) }, /^good$/],
    ['signed by a signer for another usage', { signer: delegated(serverAuth) }, /neither the issuer nor delegated/],
    [
      'signed by a signer of another CA',
      { signer: delegated(ocspSigning, foreign) },
      /neither the issuer nor delegated/,
    ],
    ['signed by an expired signer', { signer: delegated(ocspSigning, ca.key, { notAfter: now - 1000 }) }, /neither/],
    ['about another certificate', { other: true }, /about another certificate/],
    ['a response that has expired', { now: now - 7_200_000, nextUpdate: now - 3_600_000 }, /it expired at/],
    ['a response from the future', { now: now + 7_200_000 }, /its thisUpdate is in the future/],
    ['a response with status unknown', { status: { kind: 'unknown' } }, /does not know/],
    ['revoked', { status: { kind: 'revoked', at: now, reason: 'keyCompromise' } }, /^certificate_revoked/],
  ];
  for (const [name, answering, expected] of cases) t.match(await verdict(respond(request, answering)), expected, name);
  t.match(await verdict(Buffer.from([0x30, 3, 0x0a, 1, 3])), /answered tryLater/);
  t.match(await verdict(Buffer.alloc(0)), /^ocsp_invalid/);
  t.match(await verdict(randomBytes(70_000)), /^ocsp_invalid.*too large/);
});

t.test('any change to a response makes it invalid', async (t) => {
  const whole = respond(request);
  for (let at = 0; at < whole.length; at++) {
    const changed = Buffer.from(whole);
    changed[at]! ^= 1 << (at % 8);
    const said = await verdict(changed);
    // The names of algorithms and what is not signed may be spelled differently; what is signed may not.
    if (said === 'good') {
      const { answers } = (await import('../../cert-agent/identity/ocsp.ts')).readOcspResponse(changed);
      t.equal(answers[0]?.status, 'good', `byte ${at}`);
    } else if (!/^ocsp_invalid/.test(said)) t.fail(`byte ${at}: ${said}`);
  }
  for (let length = 0; length < whole.length; length += 7) t.not(await verdict(whole.subarray(0, length)), 'good');
});

function world(credential: Credential = good) {
  const captured = captureLog();
  const state = { now, answer: (asked: Buffer): Buffer => respond(asked, { now: state.now }), asked: 0 };
  const staples = new Staples({
    log: captured.log,
    now: () => state.now,
    async ask(_url, asked) {
      state.asked++;
      return state.answer(asked);
    },
  });
  t.teardown(() => staples.close());
  staples.follow([credential.chain]);
  const key = fingerprintOf(credential.chain[0]!);
  return { state, staples, captured, staple: () => staples.of(key) };
}

t.test('a response is stapled while it is valid, and renewed at half of its lifetime', async (t) => {
  const { state, staples, staple } = world();
  t.equal(staple(), undefined, 'no staple yet');
  await staples.tick();
  const first = staple();
  t.ok(first);
  await staples.tick();
  t.equal(state.asked, 1, 'the responder is not asked again');
  state.now += 300_001;
  await staples.tick();
  t.equal(state.asked, 2);
  t.notSame(staple(), first);
  staples.follow([good.chain]);
  t.ok(staple(), 'a new generation keeps it');
  state.now += 600_001;
  t.equal(staple(), undefined, 'an expired one is never stapled');
  staples.follow([]);
  await staples.tick();
  t.equal(state.asked, 2, 'no request is made for a removed certificate');
});

t.test('failures are retried with growing pauses, and logged a few times', async (t) => {
  const { state, staples, captured, staple } = world();
  await staples.tick();
  const held = staple();
  state.answer = () => {
    throw new Error('no route to host');
  };
  for (let seconds = 0; seconds < 590; seconds++) {
    state.now += 1000;
    await staples.tick();
  }
  t.equal(staple(), held, 'a valid response is stapled');
  const first = state.asked;
  t.ok(first > 4 && first < 12, `${first} requests in ten minutes`);
  for (let minutes = 0; minutes < 600; minutes++) {
    state.now += 60_000;
    await staples.tick();
  }
  t.ok(state.asked < first + 20, `${state.asked} requests in ten hours`);
  t.equal(staple(), undefined);
  const lines = captured.lines.filter(({ code }) => code === 'ocsp_unavailable');
  t.ok(lines.length >= 1 && lines.length < 5, `${lines.length} lines`);
  t.match(lines[0], { level: 'warn', msg: /a\.test.*no route to host/ });
});

t.test('a revoked certificate loses its staple, and is logged', async (t) => {
  const { state, staples, captured, staple } = world();
  await staples.tick();
  state.answer = (asked) =>
    respond(asked, { now: state.now, status: { kind: 'revoked', at: now, reason: 'superseded' } });
  state.now += 300_001;
  await staples.tick();
  t.equal(staple(), undefined);
  t.match(captured.lines.at(-1), { level: 'error', code: 'certificate_revoked' });
  const revokedAt = state.now;
  state.answer = (asked) => respond(asked, { now: revokedAt - 120_000 });
  state.now += 60_000;
  await staples.tick();
  t.equal(staple(), undefined, 'an older response does not restore it');
  state.answer = (asked) => respond(asked, { now: state.now });
  state.now += 3_600_000;
  await staples.tick();
  t.ok(staple(), 'a newer response does');
});

t.test('a response that is valid for months is renewed after a day', async (t) => {
  const { state, staples } = world();
  state.answer = (asked) => respond(asked, { now: state.now, nextUpdate: state.now + 90 * 86_400_000 });
  await staples.tick();
  state.now += 23 * 3_600_000;
  await staples.tick();
  t.equal(state.asked, 1);
  state.now += 3_600_001;
  await staples.tick();
  t.equal(state.asked, 2);
});

t.test('must-staple without a staple is an error', async (t) => {
  const required = world(namingResponder(url, { staple: true }));
  required.state.answer = () => Buffer.from('garbage');
  await required.staples.tick();
  t.match(required.captured.lines.at(-1), { level: 'error', code: 'ocsp_invalid', msg: /must be stapled/ });
  for (const [credential, why] of [
    [namingResponder(undefined, { staple: true }), /names no responder/],
    [namingResponder(url, { staple: true, withIssuer: false }), /issuer is not in the chain/],
  ] as const) {
    const { captured, staples } = world(credential);
    staples.follow([credential.chain]);
    const lines = captured.lines.filter(({ code }) => code === 'staple_missing');
    t.equal(lines.length, 1, 'the error is logged once');
    t.match(lines[0], { level: 'error', msg: why });
  }
});
