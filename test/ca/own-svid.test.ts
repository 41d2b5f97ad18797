import { join } from 'node:path';
import t from 'tap';
import { openAuthority } from '../../cert-agent/ca/authority.ts';
import { readRootFingerprints } from '../../cert-agent/ca/certificates.ts';
import { storeFileOf } from '../../cert-agent/ca/directory.ts';
import { createOwnSvid } from '../../cert-agent/ca/own-svid.ts';
import { openSqliteStore } from '../../cert-agent/ca/store/sqlite.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { makeCa } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { tempDir } from '../fixtures/process.ts';

t.test("the CA's own certificate gets a new address when the machine has one", async (t) => {
  const clock = new ManualClock();
  const dir = await makeCa(t, { clock, dir: join(tempDir(t), 'ca') });
  const store = await openSqliteStore(storeFileOf(dir), readRootFingerprints(dir));
  t.teardown(() => store.close());
  let names: readonly string[] = ['localhost', '127.0.0.1'];
  const authority = openAuthority(dir, undefined, clock);
  const own = await createOwnSvid({ authority, store, clock, defaultLifeMs: 3_600_000, names: () => names });
  const leaf = (): Buffer => own.live.current().chain[0]!;
  const first = leaf();
  t.match(readCertificateFacts(first), { dns: ['localhost'] });
  await own.rotate();
  t.equal(leaf(), first, 'nothing has changed');
  names = ['localhost', 'build-7', '127.0.0.1'];
  await own.rotate();
  const second = leaf();
  t.match(readCertificateFacts(second), { dns: ['localhost', 'build-7'] });
  names = ['localhost', '127.0.0.1'];
  await own.rotate();
  t.equal(
    leaf(),
    second,
    'a removed name waits for the next renewal, so that a name that comes and goes costs nothing',
  );
  clock.advance(1_800_001);
  await own.rotate();
  t.strictSame(readCertificateFacts(leaf()).dns, ['localhost']);
  t.strictSame((await store.listCertificates({})).at(-1)?.names, names, 'on record with its names');
});
