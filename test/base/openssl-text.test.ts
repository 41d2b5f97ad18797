// OpenSSL's errors in plain words, as Node hands them on.

import { createPrivateKey } from 'node:crypto';
import t from 'tap';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { withoutOpenssl } from '../../cert-agent/base/openssl-text.ts';

const raw = (reason: string): string =>
  `C0BCE5B1F77F0000:error:0A00010B:SSL routines:ssl3_get_record:${reason}:../deps/openssl/openssl/ssl/record/ssl3_record.c:355:\n`;

t.test('reasons', async (t) => {
  const rows: [reason: string, plain: string][] = [
    ['wrong version number', 'the other side does not speak TLS'],
    ['http request', 'the client speaks plain HTTP, not TLS'],
    ['peer did not return a certificate', 'the client presented no certificate'],
    ['sslv3 alert certificate expired', 'the other side refuses our certificate (certificate expired)'],
    ['ssl/tls alert bad certificate', 'the other side refuses our certificate (bad certificate)'],
    ['tlsv1 alert unknown ca', 'the other side does not know the CA of our certificate'],
    ['something new', 'OpenSSL: something new'],
    ['constructor', 'OpenSSL: constructor'],
  ];
  for (const [reason, plain] of rows) {
    t.equal(reasonOf(new Error(raw(reason))), plain);
    t.equal(withoutOpenssl(`error:0A000001:SSL routines::${reason}`), plain);
  }
  const alert = `write EPROTO ${raw('tlsv13 alert certificate required').replace('355:', '355:SSL alert number 116')}`;
  t.equal(reasonOf(new Error(alert)), 'write EPROTO the other side requires a certificate, and we presented none');
});

t.test('what is not from OpenSSL stays as it is', async (t) => {
  for (const text of ['connect ECONNREFUSED 127.0.0.1:1', 'error: no', 'an error:12 here'])
    t.equal(withoutOpenssl(text), text);
});

t.test("Node's own errors", async (t) => {
  try {
    createPrivateKey('-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n');
    t.fail('it is no key');
  } catch (error) {
    t.notMatch(reasonOf(error), /error:[0-9A-F]{8}|routines/);
  }
});

t.test('text that looks like the beginning of many errors takes no time that grows with its square', async (t) => {
  const text = `error:${'A'.repeat(4000)} `;
  const started = process.cpuUsage();
  for (let i = 0; i < 200; i++) withoutOpenssl(text);
  // With its square it takes three seconds.
  t.ok(process.cpuUsage(started).user < 1_000_000);
  const long = `error:${'A'.repeat(60_000)} `;
  t.equal(withoutOpenssl(long), long);
});
