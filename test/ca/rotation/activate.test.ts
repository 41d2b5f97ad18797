// What is issued while a new issuer is being activated counts as what it is: signed by the old one before, by the new
// one after. Otherwise the root could be removed while certificates of the old one are in use.

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { allCertificates } from '../../../cert-agent/ca/operator/identities.ts';
import { ask, makeCa, newKey, startTestCa } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { until } from '../../fixtures/process.ts';

/** Each look at it is a millisecond later, so that the order of events is that of their times. */
class TickingClock extends ManualClock {
  override now(): number {
    this.advance(1);
    return super.now();
  }
}

t.test('no certificate under the old root is issued after the activation', async (t) => {
  const clock = new TickingClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const { csr } = await newKey();
  const old = new X509Certificate(readFileSync(join(ca.dir, 'intermediate.pem')));
  await ca.operator.rotate({ kind: 'root', step: 'prepare' });
  await ca.operator.rotate({ kind: 'root', step: 'distribute' });
  const ids = Array.from({ length: 12 }, (_, i) => `spiffe://demo.test/w/${i}`);
  let going = true;
  let enrolled = 0;
  const loops = ids.map(async (id) => {
    while (going) {
      const { token } = await ca.operator.createToken(id, 600_000);
      // Once the new root's issuer is in use, this client does not accept the CA any more.
      await ask(ca.address.port, root, { now: clock.now(), path: '/v1/svid', body: { csr, token } }).catch(() => {});
      enrolled++;
    }
  });
  await until(() => enrolled >= ids.length, 'certificates');
  const { state } = await ca.operator.rotate({ kind: 'root', step: 'activate', except: ids });
  going = false;
  await Promise.all(loops);
  const young: number[] = [];
  let ofOld = 0;
  for await (const { serial, issuedAt } of allCertificates(ca.operator, { all: true })) {
    const { certificate } = await ca.operator.show(serial);
    if (!new X509Certificate(Buffer.from(certificate, 'base64')).checkIssued(old)) continue;
    ofOld++;
    if (issuedAt >= state!.activatedAt!) young.push(issuedAt);
  }
  t.ok(ofOld > ids.length);
  t.same(young, []);
});
