// Text formats: addresses, durations, YAML with positions, errors.

import t from 'tap';
import { z } from 'zod';
import { formatAddress, isLoopback, parseAddress } from '../../cert-agent/base/address.ts';
import { formatDuration, formatTime, parseDuration } from '../../cert-agent/base/clock.ts';
import { didYouMean } from '../../cert-agent/base/did-you-mean.ts';
import { asSallyportError, codes, formatProblem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { durationSchema, parseYaml, readYaml } from '../../cert-agent/base/yaml.ts';

t.test('addresses are parsed', async (t) => {
  const read: readonly (readonly [text: string, address: object])[] = [
    ['127.0.0.1:80', { host: '127.0.0.1', port: 80 }],
    ['orders.shop:15006', { host: 'orders.shop', port: 15006 }],
    ['[::1]:443', { host: '::1', port: 443 }],
    [':80', { host: 'default', port: 80 }],
    ['15000', { host: 'default', port: 15000 }],
    ['unix:/run/a.sock', { path: '/run/a.sock' }],
    ['unix:///run/a.sock', { path: '/run/a.sock' }],
    // One spelling: `//run/a.sock` would be formatted as another address.
    ['unix:////run/a.sock', { path: '/run/a.sock' }],
    ['unix:run/a.sock', { path: 'run/a.sock' }],
  ];
  for (const [text, address] of read) t.same(parseAddress(text, 'default'), address, text);
  const refused: readonly (readonly [text: string, why: string])[] = [
    ['', 'expected host:port, [v6]:port or unix:path'],
    ['orders', 'expected host:port, [v6]:port or unix:path'],
    ['::1:80', 'expected host:port, [v6]:port or unix:path'],
    ['a:b:80', 'expected host:port, [v6]:port or unix:path'],
    ['orders:', 'expected host:port, [v6]:port or unix:path'],
    ['orders:65536', 'port 65536 is above 65535'],
    ['[1.2.3.4]:80', '1.2.3.4 is not an IPv6 address'],
    ['-a:80', '-a is not a host name'],
    ['a b:80', 'a b is not a host name'],
    ['unix:', 'the path is empty'],
    [`unix:/${'a'.repeat(103)}`, 'a unix socket path has at most 103 bytes'],
  ];
  for (const [text, why] of refused)
    t.throws(
      () => parseAddress(text, 'default'),
      { code: 'config_invalid', message: `'${text}' is not an address: ${why}` },
      text,
    );
  t.equal(formatAddress({ host: '::1', port: 1 }), '[::1]:1');
  t.equal(formatAddress({ path: '/a' }), 'unix:/a');
  for (const [host, loopback] of [
    ['127.0.0.1', true],
    ['127.9.9.9', true],
    ['::1', true],
    ['::ffff:127.0.0.1', true],
    ['localhost', true],
    ['127.0.0.1.example.com', false],
    ['10.0.0.1', false],
    ['', false],
  ] as const)
    t.equal(isLoopback(host), loopback, host);
});

t.test('durations are parsed', async (t) => {
  for (const [text, ms] of [
    ['500ms', 500],
    ['10s', 10_000],
    ['1h30m', 5_400_000],
    ['1.5s', 1500],
    ['7d', 604_800_000],
    ['0s', 0],
    ['10', undefined],
    ['', undefined],
    ['s', undefined],
    ['-1s', undefined],
    ['1s ', undefined],
    ['1y', undefined],
    [`${'9'.repeat(30)}s`, undefined],
  ] as const)
    t.equal(parseDuration(text), ms, JSON.stringify(text));
  for (const [ms, text] of [
    [0, '0ms'],
    [999, '999ms'],
    [1000, '1s'],
    [61_000, '1m 1s'],
    [3_600_000, '1h'],
    [3_660_000, '1h 1m'],
    [90_061_000, '1d 1h'],
  ] as const)
    t.equal(formatDuration(ms), text);
  t.equal(formatTime(0), '1970-01-01T00:00:00.000Z');
});

const schema = z.strictObject({
  name: z.string(),
  timeout: durationSchema.optional(),
  list: z.array(z.strictObject({ port: z.number() })).optional(),
});

t.test('YAML parses to a frozen value, or reports all problems with their positions', async (t) => {
  const value = readYaml(schema, 'name: a\ntimeout: 5s\nlist: [{ port: 1 }]\n', 'x.yaml');
  t.same(value, { name: 'a', timeout: 5000, list: [{ port: 1 }] });
  t.ok(Object.isFrozen(value.list?.[0]));
  t.same(readYaml(schema, '{"name": "a"}', 'x.json'), { name: 'a' }, 'JSON is YAML');
  const refused: readonly (readonly [text: string, problems: readonly string[]])[] = [
    ['', ['x.yaml:1:1: the file is empty']],
    ['# nothing\n', ['x.yaml:1:1: the file is empty']],
    ['a', ['x.yaml:1:1: invalid input: expected object, received string']],
    [
      'nam: a',
      ["x.yaml:1:1: unknown key 'nam' (did you mean 'name'?)", 'x.yaml:1:1: name: is missing: expected string'],
    ],
    ['name: a\nname: b', ['x.yaml:2:1: Map keys must be unique']],
    ['name: a\ntimeout: soon', ["x.yaml:2:10: timeout: 'soon' is not a duration: write 500ms, 10s, 5m, 1h or 1h30m"]],
    [
      'name: a\nlist:\n- port: 1\n- port: x\n',
      ['x.yaml:4:9: list[1].port: invalid input: expected number, received string'],
    ],
    [
      'name: a\nlist:\n- prt: 1\n',
      ["x.yaml:3:3: unknown key 'prt' (did you mean 'port'?)", 'x.yaml:3:3: list[0].port: is missing: expected number'],
    ],
    ['name: a\n---\nname: b', ['x.yaml:3:1: only one document is expected here']],
    ['name: *a', ["x.yaml:1:7: no anchor precedes this alias; quote a string that begins with '*' or '!'"]],
    ['password: !hunter2', ["x.yaml:1:11: unknown tag; quote a string that begins with '*' or '!'"]],
    ['name: a\n? [b]\n: c', ['x.yaml:2:3: With stringKeys, all keys must be strings']],
    ['name: !!js/function a', ["x.yaml:1:7: unknown tag; quote a string that begins with '*' or '!'"]],
  ];
  for (const [text, wanted] of refused) {
    try {
      readYaml(schema, text, 'x.yaml');
      t.fail(`${JSON.stringify(text)} was read`);
    } catch (error) {
      t.ok(error instanceof SallyportError && error.code === 'config_invalid');
      t.same(
        (error as SallyportError).problems.map(formatProblem).toSorted(),
        [...wanted].toSorted(),
        JSON.stringify(text),
      );
    }
  }

  t.test('aliases that would expand to gigabytes are refused at once', async (t) => {
    const levels = Array.from({ length: 12 }, (_, i) => `l${i + 1}: &l${i + 1} [${`*l${i},`.repeat(10)}]`);
    const started = performance.now();
    const { problems } = parseYaml(`l0: &l0 [${'x,'.repeat(10)}]\n${levels.join('\n')}\n`, 'x.yaml');
    t.match(problems, [{ message: /Excessive alias count/ }]);
    t.ok(performance.now() - started < 2000);
  });
});

t.test('a misspelled name gets a suggestion', async (t) => {
  const known = ['endpoints', 'identity', 'hosts'];
  for (const [word, hint] of [
    ['endpoint', "did you mean 'endpoints'?"],
    ['Identity', "did you mean 'identity'?"],
    ['hsots', "did you mean 'hosts'?"],
    ['host', "did you mean 'hosts'?"],
    ['colour', undefined],
  ] as const)
    t.equal(didYouMean(word, known), hint, word);
});

t.test('errors', async (t) => {
  const ours = new SallyportError('no_route', 'nobody', { hint: 'look' });
  t.equal(asSallyportError(ours, 'internal', 'x'), ours, 'a SallyportError is not wrapped');
  t.match(asSallyportError(new Error('a\n  b'), 'internal', 'it broke'), {
    code: 'internal',
    message: 'it broke: a b',
    row: codes.internal,
  });
  t.equal(reasonOf('text'), 'text');
  for (const [code, row] of Object.entries(codes)) {
    t.ok(/^[a-z0-9_]+$/.test(code) && row.status >= 400 && row.status <= 599, code);
    t.ok(row.grpc >= 1 && row.grpc <= 16, code);
  }
});

t.test('a syntax error is one problem, and not each token that follows', async (t) => {
  const at = (text: string): unknown => parseYaml(text, 'x.yaml').problems;
  const when = 'a: 1\nwhen: [{ key: request.headers[x-team], values: [a] }]\nrules:\n  - from: [{ b: 1 }]\n';
  t.match(at(when), [{ line: 2, column: 30, hint: 'quote it: "request.headers[x-team]"' }]);
  t.equal(parseYaml(when, 'x.yaml').problems.length, 1);
  t.match(at('a: [request.auth.claims[iss]]\n'), [{ line: 1, hint: 'quote it: "request.auth.claims[iss]"' }]);
  t.notMatch(at('a: [1, 2\nb: 3\n'), [{ hint: /quote/ }]);
  const two = parseYaml('a: 1\na: 2\nb: @x\n', 'x.yaml').problems;
  t.strictSame(two.length, 2, 'what does not follow from another error is a problem of its own');
});
