import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { pathsIn, pendingKey, writeGeneration } from '../../cert-agent/identity/generation.ts';
import { parseIdentity, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { type Agent, type AgentOptions, startAgent } from '../../cert-agent/main.ts';
import { type FakeCa, type FakeCaOptions, refusal, startFakeCa } from '../fixtures/fake-ca.ts';
import { type CapturedLog, captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createSvid, publicKeyOf } from '../fixtures/pki.ts';
import { tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const uri = 'spiffe://demo.test/ns/shop/sa/web';
const hourMs = 3_600_000;

interface World {
  readonly ca: FakeCa;
  readonly clock: ManualClock;
  readonly captured: CapturedLog;
  readonly outDir: string;
  readonly tokenFile: string;
  readonly caBundleFile: string;
  start(changes?: Partial<AgentOptions>): Agent;
}

async function createWorld(t: Test, options: Partial<FakeCaOptions> = {}): Promise<World> {
  const clock = new ManualClock();
  const captured = captureLog();
  const ca = await startFakeCa(t, { authority, clock, ...options });
  const directory = tempDir(t);
  const world = {
    ca,
    clock,
    captured,
    outDir: join(directory, 'out'),
    tokenFile: join(directory, 'token'),
    caBundleFile: join(directory, 'root.pem'),
    start(changes: Partial<AgentOptions> = {}): Agent {
      const { outDir, tokenFile, caBundleFile } = world;
      const agent = startAgent({
        caUrl: ca.url,
        caBundleFile,
        tokenFile,
        outDir,
        log: captured.log,
        clock,
        random: () => 0.5,
        ...changes,
      });
      t.teardown(() => agent.close());
      return agent;
    },
  };
  writeFileSync(world.tokenFile, 'join-me\n', { mode: 0o600 });
  writeFileSync(world.caBundleFile, authority.bundlePem);
  return world;
}

async function started(world: World, changes: Partial<AgentOptions> = {}): Promise<Agent> {
  const agent = world.start(changes);
  await until(() => agent.identity.current(), 'the first SVID');
  return agent;
}

/** Lets time pass until the next request to the CA succeeded or failed. */
async function settled(agent: Agent): Promise<void> {
  await until(() => agent.status().nextRenewal !== undefined, 'the end of an attempt');
}

t.test('the first SVID is issued for a token, and everything is on disk', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world, { ttlMs: 1_800_000 });
  t.match(world.ca.requests[0], {
    path: '/v1/svid',
    body: { token: 'join-me', ttlSeconds: 1800 },
    clientId: undefined,
  });
  const paths = pathsIn(world.outDir, 'demo.test');
  const read = readIdentityTexts(paths);
  const onDisk = 'texts' in read ? parseIdentity(read.texts, paths) : undefined;
  t.equal(onDisk?.svid.serial, agent.identity.current()?.svid.serial);
  t.notOk(existsSync(join(world.outDir, 'pending.key')), 'the pending key became the key');
  const { notBefore = 0, notAfter = 0 } = agent.status();
  t.match(agent.status(), { state: 'serving', id: uri, waitingFor: undefined, renewals: 1, lastError: undefined });
  t.equal(agent.status().nextRenewal, notBefore + (notAfter - notBefore) * 0.525);
  t.match(world.captured.withCode('svid_received'), [{ id: uri, nextRenewal: /T.*Z$/ }]);
});

t.test('the agent renews over mTLS with a new key, at the announced time', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world);
  rmSync(world.tokenFile);
  const first = agent.identity.current();
  world.clock.advance(0.52 * hourMs);
  t.equal(world.ca.count('/v1/svid/renew'), 0, 'no renewal before its time');
  world.clock.advance(0.01 * hourMs);
  await until(() => agent.status().renewals === 2, 'the renewal');
  const asked = world.ca.requests.find((one) => one.path === '/v1/svid/renew');
  t.equal(asked?.clientId, uri);
  t.equal(asked?.body.token, undefined, 'no token is sent');
  const second = agent.identity.current();
  t.not(second?.svid.serial, first?.svid.serial);
  t.not(second?.svid.keyPem, first?.svid.keyPem);
  t.equal(second?.svid.id.uri, uri);
});

t.test('the key is written to disk before the request is sent', async (t) => {
  const world = await createWorld(t);
  let atRequest: Buffer | undefined;
  world.ca.onSvid = (request, right) => {
    atRequest = publicKeyOf(pendingKey(world.outDir, undefined));
    t.ok(request.publicKey?.equals(atRequest));
    return right;
  };
  await started(world);
  t.ok(atRequest);
});

t.test('after a crash between the response and the write, the same token gives the same certificate', async (t) => {
  const world = await createWorld(t);
  let serial: string | undefined;
  world.ca.onSvid = (_request, right) => {
    serial = right.serial;
    return 'cut';
  };
  const crashed = world.start();
  await until(() => world.ca.count('/v1/svid') === 1 && crashed.status().nextRenewal !== undefined, 'the lost answer');
  await crashed.close();
  t.equal(crashed.identity.current(), undefined);
  world.ca.onSvid = undefined;
  const agent = await started(world);
  t.equal(agent.identity.current()?.svid.serial, serial);
});

t.test('a restart with a valid SVID loads it at once and needs neither token nor CA', async (t) => {
  const world = await createWorld(t);
  const before = await started(world);
  const serial = before.status().serial;
  await before.close();
  await world.ca.stop();
  rmSync(world.tokenFile);
  rmSync(world.caBundleFile);
  const agent = world.start();
  t.equal(agent.identity.current()?.svid.serial, serial);
  t.match(agent.status(), { state: 'serving', renewals: 0 });
  t.match(world.captured.withCode('svid_loaded'), [{ id: uri }]);
});

t.test('a restart with an expired SVID reads the token file again', async (t) => {
  const world = await createWorld(t);
  await (await started(world)).close();
  world.clock.advance(2 * hourMs);
  world.ca.tokens.add('another-token');
  const agent = world.start();
  t.equal(agent.identity.current(), undefined);
  t.match(world.captured.withCode('svid_expired'), [
    { msg: `the SVID of ${uri} on disk has expired; asking the CA to renew it` },
  ]);
  // The expired SVID and the old token are refused, one after the other.
  await until(() => {
    world.clock.advance(1000);
    return agent.status().waitingFor?.startsWith('a join token that');
  }, 'the refusal of the old token');
  writeFileSync(world.tokenFile, 'another-token', { mode: 0o600 });
  world.clock.advance(1000);
  await until(() => agent.identity.current(), 'the SVID');
  t.equal(world.ca.requests.at(-1)?.body.token, 'another-token');
});

t.test('a restart with an SVID that expired within the window of the CA needs no token', async (t) => {
  const world = await createWorld(t);
  await (await started(world)).close();
  rmSync(world.tokenFile);
  world.clock.advance(2 * hourMs);
  world.ca.graceMs = 2 * hourMs;
  const agent = world.start();
  t.equal(agent.identity.current(), undefined, 'the old SVID is not served');
  await until(() => agent.identity.current(), 'the SVID');
  t.equal(world.ca.requests.at(-1)?.path, '/v1/svid/renew');
});

t.test('an SVID stays in memory while the disk cannot be written, and is written once it can be', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world);
  const before = agent.identity.current()!.svid.serial;
  // Root may write to any directory: a file in its place keeps everybody from it.
  const generations = join(world.outDir, 'generations');
  renameSync(generations, `${generations}.away`);
  writeFileSync(generations, '');
  rmSync(join(world.outDir, 'pending.key'), { force: true });
  mkdirSync(join(world.outDir, 'pending.key'));
  agent.renewNow();
  await until(() => agent.identity.current()?.svid.serial !== before, 'the new SVID');
  t.match(world.captured.withCode('generation_unwritten')[0]?.['msg'], /the next key is in memory/);
  t.match(world.captured.withCode('generation_unwritten').at(-1)?.['msg'], /the identity is in memory only/);
  const second = agent.identity.current()!.svid.serial;
  agent.renewNow();
  await until(() => agent.identity.current()?.svid.serial !== second, 'another');
  rmSync(generations);
  rmSync(join(world.outDir, 'pending.key'), { recursive: true });
  renameSync(`${generations}.away`, generations);
  world.clock.advance(1000);
  await until(() => world.captured.withCode('generation_written').length === 1, 'the disk to be written');
  const read = readIdentityTexts(pathsIn(world.outDir, 'demo.test'));
  t.equal('texts' in read && read.texts.svid, agent.identity.current()!.svid.chainPem);
});

t.test('the agent waits for each missing thing by name, one after the other', async (t) => {
  const world = await createWorld(t, { away: true });
  rmSync(world.tokenFile);
  rmSync(world.caBundleFile);
  const agent = world.start();
  await settled(agent);
  t.match(agent.status(), { state: 'waiting', waitingFor: `the CA bundle ${world.caBundleFile}` });
  writeFileSync(world.caBundleFile, authority.bundlePem);
  world.clock.advance(1000);
  await until(() => agent.status().waitingFor === `a join token in ${world.tokenFile}`, 'the missing token');
  writeFileSync(world.tokenFile, 'wrong-token', { mode: 0o600 });
  world.clock.advance(1000);
  await until(() => agent.status().waitingFor === `the CA at ${world.ca.url}`, 'the missing CA');
  t.match(agent.status().lastError, {
    code: 'ca_unreachable',
    message: /^cannot reach the CA at .*: .*ECONNREFUSED/,
  });
  await world.ca.start();
  world.clock.advance(10_000);
  const refused = `a join token that the CA accepts in ${world.tokenFile}`;
  await until(() => agent.status().waitingFor === refused, 'the refused token');
  t.match(agent.status().lastError, {
    code: 'ca_refused',
    message: `the CA at ${world.ca.url} refused: this token is not known [token_unknown]`,
  });
  writeFileSync(world.tokenFile, 'join-me', { mode: 0o600 });
  world.clock.advance(1000);
  await until(() => agent.identity.current(), 'the SVID');
  const warnings = world.captured.lines.filter((line) => line.level === 'warn').map((line) => line.msg.split(': ')[0]);
  t.same(warnings, [
    `waiting for the CA bundle ${world.caBundleFile}`,
    `waiting for a join token in ${world.tokenFile}`,
    `waiting for the CA at ${world.ca.url}`,
    `waiting for ${refused}`,
  ]);
});

t.test('while the CA is unreachable the agent backs off, and withdraws its SVID when it expires', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world);
  const svid = agent.identity.current()?.svid;
  await world.ca.stop();
  world.clock.advance(0.525 * hourMs);
  const pauses: number[] = [];
  while (world.clock.now() < svid!.notAfter) {
    await until(() => agent.status().nextRenewal !== undefined, 'a failed attempt');
    const pause = agent.status().nextRenewal! - world.clock.now();
    pauses.push(pause);
    t.equal(agent.identity.current()?.svid, svid, 'the SVID is served');
    world.clock.advance(Math.min(pause, svid!.notAfter - world.clock.now()));
  }
  t.same(pauses.slice(0, 9), [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 75_000, 75_000]);
  t.equal(pauses.at(-1), 10_000, 'past 90 % of the lifetime every 10 s');
  t.match(agent.status(), { state: 'late', waitingFor: undefined });
  world.clock.advance(1);
  t.equal(agent.identity.current(), undefined, 'fails closed');
  t.equal(agent.status().state, 'waiting');
  t.equal(world.captured.withCode('svid_expired').length, 1);
  t.ok(Object.values(agent.status().svidFailures).reduce((a, b) => a + b) >= pauses.length - 1);
  world.ca.tokens.add('later');
  writeFileSync(world.tokenFile, 'later', { mode: 0o600 });
  await world.ca.start();
  await settled(agent);
  world.clock.advance(10_000);
  await until(() => agent.identity.current(), 'the SVID for a new token');
});

t.test('a clock jump is detected and causes a renewal at once', async (t) => {
  for (const [name, byMs] of [
    ['forward', 60_000],
    ['back', -60_000],
  ] as const) {
    t.test(name, async (t) => {
      const world = await createWorld(t);
      const agent = await started(world);
      world.clock.advance(10 * 60_000);
      await settled(agent);
      t.equal(agent.status().renewals, 1);
      world.clock.jump(byMs);
      world.clock.advance(1000);
      await until(() => agent.status().renewals === 2, 'the renewal');
      t.match(world.captured.withCode('clock_jump'), [{ msg: `the clock jumped ${name} by 1m; renewing now` }]);
    });
  }
  t.test('a jump past the end of the SVID', async (t) => {
    const world = await createWorld(t);
    const agent = await started(world);
    rmSync(world.tokenFile);
    world.clock.jump(2 * hourMs);
    world.clock.advance(1000);
    t.equal(agent.identity.current(), undefined, 'an SVID that expired during sleep is not served');
    const wanted = `a join token in ${world.tokenFile}: the SVID has expired, and the CA does not renew it any more`;
    await until(() => agent.status().waitingFor === wanted, 'the missing token');
  });
  t.test('slewing is not a jump', async (t) => {
    const world = await createWorld(t);
    await started(world);
    world.clock.jump(4000);
    world.clock.advance(1000);
    t.equal(world.captured.withCode('clock_jump').length, 0);
  });
});

t.test('renewNow renews at once', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world);
  agent.renewNow();
  await until(() => agent.status().renewals === 2, 'the renewal');
  t.equal(world.ca.count('/v1/svid/renew'), 1);
});

t.test('bundle and deny list are refreshed every few seconds, as a new generation of the same SVID', async (t) => {
  const world = await createWorld(t);
  const agent = await started(world);
  const first = agent.identity.current();
  world.clock.advance(5000);
  await until(() => world.ca.count('/v1/bundle') === 1, 'the first refresh');
  await until(() => agent.status().refreshedAt === world.clock.now(), 'its end');
  t.equal(agent.identity.current(), first, 'an equal response is not a change');
  world.ca.denied = { sequence: 4, time: 0, serials: new Set(['ab']), ids: new Set() };
  world.clock.advance(5000);
  await until(() => agent.status().refreshes === 1, 'the deny list');
  t.ok(agent.identity.current()?.denied.serials.has('ab'));
  t.equal(agent.identity.current()?.svid, first?.svid);
  t.same(JSON.parse(readFileSync(join(world.outDir, 'denied.json'), 'utf8')).serials, ['ab']);
  world.clock.advance(5000);
  await until(() => world.ca.count('/v1/bundle') === 3, 'the third refresh');
  t.match(world.captured.withCode('bundle_refreshed'), [{ deniedSequence: 4 }], 'logged once');
});

t.test('when our root leaves the bundle, the agent requests a new SVID within half a minute', async (t) => {
  const world = await createWorld(t);
  const next = await createAuthority('demo.test');
  world.ca.authority = next;
  world.ca.bundle = { ...authority.bundle, roots: [authority.root, next.root], sequence: 1 };
  const agent = await started(world);
  world.ca.authority = authority;
  world.ca.bundle = { ...authority.bundle, sequence: 2 };
  world.clock.advance(5000);
  await until(() => agent.status().bundleSequence === 2, 'the new bundle');
  t.equal(agent.status().nextRenewal, world.clock.now() + 15_000);
  t.match(world.captured.withCode('svid_untrusted'), [
    { msg: 'our SVID does not verify against the new bundle; renewing soon' },
  ]);
  world.clock.advance(15_000);
  await until(() => agent.status().renewals === 2, 'the renewal');
});

t.test('a bundle without the root of the CA itself is refused', async (t) => {
  const world = await createWorld(t);
  const other = await createAuthority('demo.test');
  const agent = await started(world);
  const first = agent.identity.current();
  world.ca.bundle = { ...authority.bundle, roots: [other.root], sequence: 2 };
  world.clock.advance(5000);
  await until(() => agent.status().lastError, 'the refusal');
  t.match(agent.status().lastError, {
    code: 'ca_answer_invalid',
    message: /^the CA does not verify against the new bundle that it sent: no valid path leads/,
  });
  t.equal(agent.identity.current(), first);
  world.ca.bundle = { ...authority.bundle, roots: [authority.root, other.root], sequence: 3 };
  world.clock.advance(15_000);
  await until(() => agent.status().bundleSequence === 3, 'the bundle with both roots');
  t.equal(agent.identity.current()?.bundles.get('demo.test')?.roots.length, 2);
});

t.test('an older response does not undo a newer one', async (t) => {
  const cases = [
    {
      name: 'an older bundle',
      set: (ca: FakeCa) => {
        ca.bundle = { ...ca.bundle, sequence: 6 };
      },
      message: "the CA's bundle has sequence 6, older than our 7; it is ignored",
    },
    {
      name: 'an older deny list',
      set: (ca: FakeCa) => {
        ca.denied = { ...emptyDenyList, sequence: 8 };
      },
      message: "the CA's deny list has sequence 8, older than our 9; it is ignored",
    },
  ];
  for (const { name, set, message } of cases) {
    t.test(name, async (t) => {
      const world = await createWorld(t);
      world.ca.bundle = { ...authority.bundle, sequence: 7 };
      world.ca.denied = { sequence: 9, time: 0, serials: new Set(['ab']), ids: new Set() };
      const agent = await started(world);
      set(world.ca);
      world.clock.advance(5000);
      await until(() => agent.status().lastError, 'the refusal');
      t.match(agent.status().lastError, { code: 'ca_answer_invalid', message });
      t.match(agent.status(), { bundleSequence: 7, deniedSequence: 9, bundleFailures: { ca_answer_invalid: 1 } });
      agent.renewNow();
      await until(() => agent.status().renewals === 2, 'a renewal that comes with it');
      t.match(agent.status(), { bundleSequence: 7, deniedSequence: 9 }, 'a restart undoes nothing either');
      t.ok(agent.identity.current()?.denied.serials.has('ab'));
    });
  }
});

t.test('an invalid response is not used', async (t) => {
  const other = await createAuthority('demo.test');
  const foreign = await createAuthority('other.test');
  const base64 = (chain: readonly Buffer[]): string[] => chain.map((der) => der.toString('base64'));
  const strange = await createSvid(authority, uri);
  const unvouched = await createSvid(other, uri);
  const cases: { name: string; reply: FakeCa['onSvid']; code: string; message: RegExp }[] = [
    {
      name: 'for the key of another workload',
      reply: (_request, right) => ({ ...right, chain: base64(strange.chain) }),
      code: 'key_mismatch',
      message: /^the key in pending.key does not belong to the certificate in the response of the CA at/,
    },
    {
      name: 'with an empty bundle',
      reply: (_request, right) => ({ ...right, bundle: { ...right.bundle, keys: [] } }),
      code: 'bundle_empty',
      message: /^the bundle of the CA at .* contains no certificate/,
    },
    {
      name: 'with a bundle against which the SVID does not verify',
      reply: (_request, right) => ({
        ...right,
        bundle: { ...right.bundle, keys: [{ use: 'x509-svid', kty: 'EC', x5c: base64([other.root]) }] },
      }),
      code: 'svid_untrusted',
      message: /^no valid path leads from spiffe:\/\/demo.test\/ns\/shop\/sa\/web to a root of demo.test$/,
    },
    {
      name: 'without a deny list',
      reply: (_request, right) => ({ ...right, bundle: { ...right.bundle, sallyport_denied: undefined } }),
      code: 'bundle_invalid',
      message: /is not a deny list: expected an object$/,
    },
    {
      name: 'with our own serial on the deny list',
      reply: (_request, right) => ({
        ...right,
        bundle: {
          ...right.bundle,
          sallyport_denied: { sequence: 1, time: '2026-01-01T00:00:00Z', serials: [right.serial], ids: [] },
        },
      }),
      code: 'svid_denied',
      message: /^certificate [0-9a-f]+ of spiffe:.* is revoked$/,
    },
    {
      name: 'without a chain',
      reply: (_request, right) => ({ ...right, chain: [] }),
      code: 'ca_answer_invalid',
      message: /^invalid response from the CA at .*: 'chain' is not a list of certificates$/,
    },
    {
      name: 'with a chain that is not PEM',
      reply: (_request, right) => ({ ...right, chain: ['AAAA'] }),
      code: 'certificate_unreadable',
      message: /^certificate 1 of the response of the CA at .* cannot be read/,
    },
    {
      name: 'that is not JSON',
      reply: () => ({ status: 200, body: '<html>' }),
      code: 'ca_answer_invalid',
      message: /^invalid response from the CA at .*: not JSON$/,
    },
    {
      name: 'that is JSON of another form',
      reply: () => ({ status: 200, body: '[]' }),
      code: 'ca_answer_invalid',
      message: /^invalid response from the CA at .*: not an object$/,
    },
    {
      name: 'of another server',
      reply: () => ({ status: 404, body: 'not here' }),
      code: 'ca_refused',
      message: /^the CA at .* responded 404 without a reason$/,
    },
    {
      name: 'of a CA that refuses',
      reply: () => refusal(403, 'id_denied', 'you are on the deny list', 'ask the operator'),
      code: 'ca_refused',
      message: /^the CA at .* refused: you are on the deny list \[id_denied\]$/,
    },
    {
      name: 'that is truncated',
      reply: () => 'cut',
      code: 'ca_unreachable',
      message: /^cannot reach the CA at .*: other side closed$/,
    },
  ];
  for (const { name, reply, code, message } of cases) {
    t.test(name, async (t) => {
      const world = await createWorld(t);
      world.ca.onSvid = reply;
      const agent = world.start();
      await until(() => agent.status().lastError, 'the refusal');
      t.match(agent.status().lastError, { code, message });
      t.equal(agent.identity.current(), undefined);
      t.notOk(existsSync(join(world.outDir, 'current')), 'no part of the response is on disk');
      t.same(agent.status().svidFailures, { [code]: 1 });
      world.ca.onSvid = undefined;
      world.clock.advance(2000);
      await until(() => agent.identity.current(), 'the right response');
    });
  }
  t.test('an SVID with another ID than before', async (t) => {
    const world = await createWorld(t);
    const agent = await started(world);
    const first = agent.identity.current();
    world.ca.id = 'spiffe://demo.test/ns/shop/sa/admin';
    agent.renewNow();
    await until(() => agent.status().lastError, 'the refusal');
    t.match(agent.status().lastError, {
      code: 'ca_answer_invalid',
      message: `the CA issued spiffe://demo.test/ns/shop/sa/admin, but we are ${uri}`,
    });
    t.equal(agent.identity.current(), first);
  });
  t.test('a CA that allows no more renewals: the agent retries later', async (t) => {
    const world = await createWorld(t);
    const agent = await started(world);
    const first = agent.identity.current();
    world.ca.onSvid = () => refusal(429, 'renewals_exhausted', 'too many certificates are valid', 'wait');
    agent.renewNow();
    await until(() => agent.status().lastError, 'the refusal');
    t.match(agent.status().lastError, { code: 'ca_refused', message: /\[renewals_exhausted\]$/, hint: 'wait' });
    t.equal(agent.identity.current(), first, 'its SVID is still served');
    world.ca.onSvid = undefined;
    world.clock.advance(2000);
    await until(() => agent.identity.current() !== first, 'the renewal');
  });
  t.test('an SVID under another root, at a renewal', async (t) => {
    const world = await createWorld(t);
    const agent = await started(world);
    world.ca.onSvid = (_request, right) => ({ ...right, chain: base64(unvouched.chain) });
    agent.renewNow();
    await until(() => agent.status().lastError, 'the refusal');
    t.match(agent.status().lastError, { code: 'key_mismatch' });
    world.ca.onSvid = undefined;
    world.ca.authority = other;
    agent.renewNow();
    await until(() => agent.status().lastError?.code === 'svid_untrusted', 'the second refusal');
    world.ca.authority = foreign;
    world.ca.id = 'spiffe://other.test/ns/shop/sa/web';
    agent.renewNow();
    await until(() => /no bundle for/.test(agent.status().lastError?.message ?? ''), 'the third refusal');
    t.equal(agent.status().renewals, 1);
  });
});

t.test('a server that is not the CA gets no token', async (t) => {
  t.test('another workload of the same trust domain', async (t) => {
    const world = await createWorld(t, { caId: 'spiffe://demo.test/ns/shop/sa/mallory' });
    const agent = world.start();
    await until(() => agent.status().lastError, 'the refusal');
    t.match(agent.status().lastError, {
      code: 'svid_untrusted',
      message: `${world.ca.url} is spiffe://demo.test/ns/shop/sa/mallory, not the CA spiffe://demo.test/sallyport/ca`,
    });
    t.equal(world.ca.requests.length, 0);
  });
  t.test('the CA of another root', async (t) => {
    const world = await createWorld(t, { authority: await createAuthority('demo.test') });
    const agent = world.start();
    await until(() => agent.status().lastError, 'the refusal');
    t.match(agent.status().lastError, {
      code: 'svid_untrusted',
      message: /^the CA's certificate does not verify against our bundle: /,
      hint: 'is this the bundle of this CA? copy it from the CA again',
    });
    t.equal(world.ca.requests.length, 0);
  });
  t.test('a port without TLS', async (t) => {
    const { createServer } = await import('node:net');
    const server = createServer((socket) => socket.on('error', () => {}).end('hello\r\n'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const world = await createWorld(t);
    const agent = world.start({ caUrl: `https://127.0.0.1:${port}` });
    await until(() => agent.status().lastError, 'the failure');
    t.match(agent.status().lastError, { code: 'ca_unreachable', message: /^cannot reach the CA/ });
  });
});

t.test("another identity's SVID on disk is not used", async (t) => {
  const world = await createWorld(t);
  const foreign = await createAuthority('other.test');
  const svid = await createSvid(foreign, 'spiffe://other.test/ns/shop/sa/web');
  writeGeneration(world.outDir, { svid, bundles: foreign.bundles, denied: emptyDenyList });
  const agent = world.start();
  t.equal(agent.identity.current(), undefined);
  t.match(world.captured.withCode('generation_unusable'), [
    { msg: /but the configured trust domain is demo.test; a copy is in .*damaged\/1$/ },
  ]);
  await until(() => agent.identity.current()?.svid.id.uri === uri, 'the SVID of our own');
});

t.test('options that can never work are refused at once', async (t) => {
  const world = await createWorld(t);
  for (const caUrl of ['http://ca.test', 'ca.test:8443', 'https://user@ca.test', 'https://ca.test/path', '']) {
    t.throws(() => world.start({ caUrl }), {
      code: 'config_invalid',
      message: `'${caUrl}' is not the URL of a CA`,
      hint: 'write it as https://host:port',
    });
  }
  t.throws(() => world.start({ trustDomain: 'Demo.Test' }), {
    code: 'spiffe_id_invalid',
    message: /may contain only a-z/,
  });
  writeFileSync(world.outDir, 'a file');
  t.throws(() => world.start(), { code: 'config_unreadable', message: /out cannot be used: / });
});
