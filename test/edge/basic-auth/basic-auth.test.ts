// Basic authentication: htpasswd files, right and wrong passwords, and floods of guesses.

import { hashSync } from 'bcryptjs';
import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { BasicAuth, readBasic, readHtpasswd } from '../../../sidecar/edge/basic-auth/basic-auth.ts';
import { BcryptThread } from '../../../sidecar/edge/basic-auth/bcrypt-thread.ts';
import { parseIp } from '../../../sidecar/policy/ip.ts';
import { type Passed, pretend, startPolicy } from '../../fixtures/edge.ts';

// Envoy's own test file: test1 and test2.
const file = `user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=
# a comment

user2:{SHA}EJ9LPFDXsN9ynSmbxvjp75Bmlx8=
ann:${hashSync('secret: with colon', 4).replace('$2b$', '$2y$')}
`;
const spec = 'basicAuth: { users: { name: u }, forwardUsernameHeader: X-User }\n';
const secrets = { u: { '.htpasswd': file } };
const basic = (user: string, password: string): Record<string, string> => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
});

t.test('htpasswd files are read', async (t) => {
  t.strictSame([...readHtpasswd(file, 's').keys()], ['user1', 'user2', 'ann']);
  const row = (line: string, why: string): [string, string] => [line, `line 1 of .htpasswd in Secret 's': ${why}`];
  const rows: [string, string][] = [
    row('ann', 'it does not begin with a user and a colon'),
    row(':x', 'it does not begin with a user and a colon'),
    row(
      'ann:secret',
      "the password of 'ann' is neither {SHA}, $apr1$ nor bcrypt with a cost of at most 14 (htpasswd -B)",
    ),
    row(
      'ann:$apr1$a$b',
      "the password of 'ann' is neither {SHA}, $apr1$ nor bcrypt with a cost of at most 14 (htpasswd -B)",
    ),
    row(
      'ann:{SHA}short',
      "the password of 'ann' is neither {SHA}, $apr1$ nor bcrypt with a cost of at most 14 (htpasswd -B)",
    ),
    row(
      `ann:${hashSync('a', 4).replace('$04$', '$20$')}`,
      "the password of 'ann' is neither {SHA}, $apr1$ nor bcrypt with a cost of at most 14 (htpasswd -B)",
    ),
    ['user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\nuser1:x', "line 2 of .htpasswd in Secret 's': 'user1' is listed twice"],
    ['# no user', "there is no user in .htpasswd of Secret 's'"],
  ];
  for (const [text, message] of rows)
    t.throws(() => readHtpasswd(text, 's'), new SallyportError('config_invalid', message), text);
});

t.test('Authorization fields are parsed', async (t) => {
  const rows: [string | undefined, unknown][] = [
    ['Basic YTpi', { user: 'a', password: 'b' }],
    ['bAsIc  YTpiOmM=', { user: 'a', password: 'b:c' }],
    ['Basic YTo=', { user: 'a', password: '' }],
    ['Basic Og==', undefined],
    ['Basic YQ==', undefined],
    ['Basic !!', undefined],
    ['Bearer YTpi', undefined],
    ['Basic YTpi, Basic YTpi', undefined],
    [undefined, undefined],
  ];
  for (const [value, pair] of rows) t.strictSame(readBasic(value), pair, value ?? 'nothing');
});

t.test('right passwords pass and wrong ones are refused', async (t) => {
  const edge = await startPolicy(t, spec, secrets);
  for (const [user, password] of [
    ['user1', 'test1'],
    ['user2', 'test2'],
    ['ann', 'secret: with colon'],
    ['ann', 'secret: with colon'],
  ] as const) {
    const response = await fetch(edge.url, { headers: { ...basic(user, password), 'x-user': 'root' } });
    t.equal(response.status, 200, user);
    const app = (await response.json()) as Passed;
    t.match(app, { clientId: user, method: 'basic', fields: { 'x-user': user } });
    t.equal(app.fields['authorization'], undefined, 'the app does not see the password');
  }
  const rows: [string, Record<string, string>, string, string][] = [
    ['none', {}, 'basic_auth_missing', 'User authentication failed. Missing username and password.'],
    [
      'a token',
      { authorization: 'Bearer x' },
      'basic_auth_missing',
      'User authentication failed. Missing username and password.',
    ],
    [
      'a wrong one',
      basic('user1', 'test2'),
      'basic_auth_wrong',
      'User authentication failed. Invalid username/password combination.',
    ],
    [
      'a wrong bcrypt',
      basic('ann', 'secret'),
      'basic_auth_wrong',
      'User authentication failed. Invalid username/password combination.',
    ],
    [
      'an unknown user',
      basic('bob', 'test1'),
      'basic_auth_wrong',
      'User authentication failed. Invalid username/password combination.',
    ],
    [
      'an unknown user with the password that stands in for theirs',
      basic('bob', 'secret: with colon'),
      'basic_auth_wrong',
      'User authentication failed. Invalid username/password combination.',
    ],
    [
      'longer than bcrypt reads',
      basic('ann', `secret: with colon${'\0'}${'x'.repeat(80)}`),
      'basic_auth_wrong',
      'User authentication failed. Invalid username/password combination.',
    ],
  ];
  for (const [name, headers, code, text] of rows) {
    const response = await fetch(`${edge.url}/a?b=c`, { headers });
    t.equal(response.status, 401, name);
    t.equal(await response.text(), text, name);
    t.match(response.headers.get('www-authenticate'), /^Basic realm="https?:\/\/127\.0\.0\.1:\d+\/a"$/, name);
    t.equal(edge.refused.at(-1)!.code, code, name);
  }
});

t.test('guesses fill a queue and do not block the event loop', async (t) => {
  const thread = new BcryptThread();
  t.teardown(() => thread.close());
  const hash = hashSync('right', 6);
  t.equal(await thread.compare('right', hash), true);
  t.equal(await thread.compare('wrong', hash), false);
  const all = await Promise.allSettled(Array.from({ length: 40 }, (_, i) => thread.compare(`guess ${i}`, hash)));
  const refused = all.filter((one) => one.status === 'rejected').map(({ reason }) => reason as SallyportError);
  t.equal(refused.length, 8);
  t.match(refused[0], { code: 'overloaded', message: '32 passwords are waiting for comparison' });
  t.equal(await thread.compare('right', hash), true, 'the thread continues afterwards');
  const waiting = thread.compare('right', hashSync('right', 10));
  thread.close();
  await t.rejects(waiting, { code: 'overloaded', message: 'the thread that compares passwords has ended' });
  t.equal(await thread.compare('right', hash), true, 'a new thread is started');
});

t.test('a client that guesses does not lock other clients out', async (t) => {
  const thread = new BcryptThread();
  t.teardown(() => thread.close());
  const users = readHtpasswd(`ann:${hashSync('right', 4)}\n`, 'u');
  const auth = new BasicAuth({ users: { name: 'u' }, sanitize: true }, users, thread, Date.now);
  const ask = async (password: string, ip: string): Promise<string | undefined> => {
    const exchange = pretend({ clientIp: parseIp(ip)! }, basic('ann', password));
    await auth.know(exchange);
    return exchange.clientId;
  };
  const guesses = Array.from({ length: 40 }, (_, i) => ask(`guess ${i}`, `2001:db8:0:1::${i + 1}`));
  const ann = ask('right', '192.0.2.1');
  const refused = await Promise.allSettled(guesses);
  const codes = refused.map((one) => (one.status === 'rejected' ? (one.reason as SallyportError).code : 'known'));
  t.equal(codes.filter((one) => one === 'overloaded').length, 32, 'addresses of one network are one client');
  t.equal(codes.filter((one) => one === 'basic_auth_wrong').length, 8);
  const first = refused.find(
    (one) => one.status === 'rejected' && (one.reason as SallyportError).code === 'overloaded',
  );
  t.match(first, { reason: { message: '8 passwords of one client are waiting for comparison' } });
  t.equal(await ann, 'ann');
  await t.rejects(ask('another guess', '2001:db8:0:1::1'), { code: 'basic_auth_wrong' }, 'the client may try again');
});

t.test('sanitize: false leaves the field in the request', async (t) => {
  const edge = await startPolicy(t, 'basicAuth: { users: { name: u }, sanitize: false }\n', secrets);
  const headers = basic('user1', 'test1');
  const app = (await (await fetch(edge.url, { headers })).json()) as Passed;
  t.equal(app.fields['authorization'], headers['authorization']);
});
