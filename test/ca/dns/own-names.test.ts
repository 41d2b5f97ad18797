import { hostname } from 'node:os';
import t from 'tap';
import { ownNames } from '../../../cert-agent/ca/dns/own-names.ts';

const addresses = ['10.0.0.7', '127.0.0.1', 'fe80::1', 'FD00:0::7', '::1', 'fe80::2%eth0', '::ffff:10.0.0.8'];
const machine = { hostname: () => 'Build-7', addresses: () => addresses };
const namesOf = async (host: string, given?: readonly string[], on = machine) => (await ownNames(host, given, on))();

t.test('a CA on one address', async (t) => {
  t.strictSame(await namesOf('127.0.0.1'), ['localhost', '127.0.0.1']);
  t.strictSame(await namesOf('::1'), ['localhost', '::1']);
  t.strictSame(await namesOf('10.0.0.7'), ['10.0.0.7']);
});

t.test('a CA on all addresses', async (t) => {
  t.strictSame(await namesOf('0.0.0.0'), ['build-7', 'localhost', '127.0.0.1', '10.0.0.7', '10.0.0.8']);
  t.strictSame(await namesOf('::'), ['build-7', 'localhost', '127.0.0.1', '::1', '10.0.0.7', 'fd00::7', '10.0.0.8']);
});

t.test('a CA on a host name', async (t) => {
  const names = await namesOf('localhost');
  t.equal(names[0], 'localhost');
  t.ok(names.some((one) => one === '127.0.0.1' || one === '::1'));
  t.strictSame(await namesOf('no-such-host.invalid'), ['no-such-host.invalid'], 'the listener reports it');
});

t.test('names that clients use are added', async (t) => {
  t.strictSame(await namesOf('127.0.0.1', ['ca.shop.test', '10.9.8.7', '127.0.0.1', 'FD00::1']), [
    ...['localhost', 'ca.shop.test', '10.9.8.7', '127.0.0.1', 'fd00::1'],
  ]);
  await t.rejects(namesOf('127.0.0.1', ['my_ca']), { code: 'dns_name_invalid' });
  const many = Array.from({ length: 17 }, (_, i) => `n${i}.test`);
  await t.rejects(namesOf('127.0.0.1', many), { code: 'dns_name_invalid', message: /16 are the limit/ });
});

t.test('a machine with thousands of addresses, with an invalid name, or without descriptors', async (t) => {
  const many = Array.from({ length: 5000 }, (_, i) => `10.1.${i >> 8}.${i & 255}`);
  const names = await namesOf('0.0.0.0', ['10.9.8.7'], { ...machine, addresses: () => [...many, '127.0.0.1'] });
  t.equal(names.length, 2 + 64);
  t.ok(names.includes('127.0.0.1') && names.includes('10.9.8.7'));
  t.notOk((await namesOf('0.0.0.0', [], { ...machine, hostname: () => 'my_box' })).includes('my_box'));
  const addresses = (): never => {
    throw new Error('EMFILE');
  };
  t.strictSame(await namesOf('0.0.0.0', [], { ...machine, addresses }), ['build-7', 'localhost', '127.0.0.1']);
});

t.test('addresses are read again each time', async (t) => {
  const all = ['127.0.0.1'];
  const names = await ownNames('0.0.0.0', [], { ...machine, addresses: () => all });
  t.notOk(names().includes('10.0.0.9'));
  all.push('10.0.0.9');
  t.ok(names().includes('10.0.0.9'));
});

t.test('the names of this machine', async (t) => {
  const names = (await ownNames('0.0.0.0'))();
  t.ok(names.includes('127.0.0.1'));
  if (/^[a-z0-9-]+$/.test(hostname())) t.ok(names.includes(hostname()));
});
