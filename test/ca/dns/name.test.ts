import { domainToASCII } from 'node:url';
import t from 'tap';
import { parseDnsName, parseDnsNames, parseDnsPattern, patternsFor } from '../../../cert-agent/ca/dns/name.ts';

const label = 'a'.repeat(63);
const longest = `${label}.${label}.${label}.${'a'.repeat(61)}`;

t.test('DNS names are checked', async (t) => {
  for (const good of [
    ...['web', 'web.shop.test', 'localhost', '3com.test', 'a-b.test', 'xn--mnchen-3ya.test', '1.2.3.a'],
    ...[longest, '*.shop.test', '*.a.b.c.test'],
  ])
    t.equal(parseDnsName(good), good);
  const wrong: [string, RegExp][] = [
    ['', /its part '' is not 1 to 63/],
    ['Web.test', /not in lower case/],
    ['web.test.', /ends with a dot/],
    ['.web.test', /its part ''/],
    ['web..test', /its part ''/],
    ['-web.test', /its part '-web'/],
    ['web-.test', /its part 'web-'/],
    ['my_app.test', /its part 'my_app'/],
    ['münchen.test', /its part 'münchen'/],
    ['web.test\n', /its part 'test\n'/],
    ['web test', /its part 'web test'/],
    ['a\0.test', /its part/],
    [`${label}a.test`, /its part/],
    [`${longest}a`, /longer than 253/],
    ['127.0.0.1', /ends like an IP address/],
    ['1.2', /ends like an IP address/],
    ['a.0x7f', /ends like an IP address/],
    ['::1', /its part/],
    ['*', /stands for the first label only/],
    ['*.test', /only in front of 2 labels/],
    ['w*.shop.test', /stands for the first label only/],
    ['*.*.test', /stands for the first label only/],
    ['a.*.test', /stands for the first label only/],
    ['spiffe://demo.test/a', /its part/],
  ];
  for (const [text, message] of wrong)
    t.throws(() => parseDnsName(text), { code: 'dns_name_invalid', message }, JSON.stringify(text));
  t.equal(domainToASCII('1.2'), '1.0.0.2', 'a client would look up such a name');
});

t.test('patterns may have a wildcard above one label', async (t) => {
  for (const good of ['web.test', '*.internal', '*.shop.test']) t.equal(parseDnsPattern(good), good);
  for (const wrong of ['*', '*.', '**.test', '*.10', 'a.*.test'])
    t.throws(() => parseDnsPattern(wrong), { code: 'dns_name_invalid' }, wrong);
});

t.test('a list has 16 names at most, each once', async (t) => {
  const names = Array.from({ length: 16 }, (_, i) => `n${i}.test`);
  t.strictSame(parseDnsNames([...names, 'n3.test']), names);
  t.throws(() => parseDnsNames([...names, 'more.test']), { code: 'dns_name_invalid', message: /^17 DNS names/ });
});

t.test('a name is allowed by itself or by the wildcard of exactly one label', async (t) => {
  t.strictSame(patternsFor('web.shop.test'), ['web.shop.test', '*.shop.test']);
  t.strictSame(
    patternsFor('*.shop.test'),
    ['*.shop.test', '*.shop.test'],
    'only the wildcard itself allows a wildcard',
  );
  t.strictSame(patternsFor('web'), ['web', 'web']);
});
