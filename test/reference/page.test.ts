// REFERENCE.md is what the source says, and nothing exists in code that is not in it: fields, variables, codes, metrics,
// fields of the log.

import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import type { z } from 'zod';
import { codes } from '../../cert-agent/base/errors.ts';
import { gatewayYaml } from '../../sidecar/config/gateway-settings.ts';
import { sidecarYaml } from '../../sidecar/config/sidecar-settings.ts';
import { securityPolicy } from '../../sidecar/documents/envoy-gateway/security-policy.ts';
import { gatewayKinds } from '../../sidecar/documents/gateway-api/gateway.ts';
import { kinds } from '../../sidecar/reference/kinds.ts';
import { referencePage } from '../../sidecar/reference/page.ts';
import { tables } from '../../sidecar/reference/tables.ts';
import { specs } from '../fixtures/every-field.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';
import { leavesOf } from '../fixtures/schema.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const page = await referencePage();
const files = globSync('{cert-agent,sidecar}/**/*.{ts,mjs}', { cwd: root })
  .filter((file) => !file.startsWith('sidecar/reference/'))
  .map((file) => readFileSync(`${root}/${file}`, 'utf8'));
const sources = files.join('\n');
const registering = files.filter((text) => /from 'prom-client'|metric-rows\.ts/.test(text)).join('\n');
const namesOf = async (table: string): Promise<readonly string[]> =>
  (await tables.find(({ name }) => name === table)!.entries()).map(({ name }) => name);

t.test('REFERENCE.md is up to date', async (t) => {
  t.equal(readFileSync(`${root}/REFERENCE.md`, 'utf8'), page, 'npm run reference writes it');
});

t.test('every leaf of every schema has a row', async (t) => {
  const check = (kind: string, schema: z.ZodType, below = ''): void => {
    const section = page.slice(page.indexOf(`\n## ${kind}`), page.indexOf('\n## ', page.indexOf(`\n## ${kind}`) + 5));
    const paths = [...new Set(leavesOf(schema).map(({ path }) => path.replace(/\[\]|\{\}/g, '')))];
    t.not(paths.length, 0, kind);
    for (const path of paths)
      if (path !== '' && !/^(?:apiVersion|kind|status|metadata\b.*)$/.test(path))
        t.ok(section.includes(`\n| \`${below}${path}\` |`), `${kind}: ${below}${path}`);
  };
  check('sidecar.yaml', sidecarYaml);
  check('gateway.yaml', gatewayYaml);
  check('SecurityPolicy', securityPolicy);
  for (const [kind, spec] of Object.entries(gatewayKinds)) check(kind, spec, 'spec.');
  for (const [kind, { plan }] of ownKinds) if (kind !== 'GRPCWeb') check(kind, plan!, 'spec.');
});

t.test('every kind that is read is here', async (t) => {
  const names = kinds.map(({ name }) => name);
  for (const kind of [...Object.keys(specs), ...Object.keys(gatewayKinds), ...ownKinds.keys()])
    t.ok(names.includes(kind), kind);
});

t.test('every environment variable that the source reads is here, and no other', async (t) => {
  const read = [
    ...sources.matchAll(/\benv\['([A-Z_]+)'\]/g),
    ...sources.matchAll(/\benv\.([A-Z_]+)/g),
    ...sources.matchAll(/\b(SALLYPORT_[A-Z_]+)/g),
    ...[...sources.matchAll(/\[([^\]]*)\]\.find\(\(name\) => env\[name\]\)/g)].flatMap(([, list]) => [
      ...list!.matchAll(/'([A-Z_]+)'/g),
    ]),
  ].map(([, name]) => name!);
  // Node's own tty module reads it for util.styleText.
  t.strictSame([...new Set([...read, 'NO_COLOR'])].toSorted(), [...(await namesOf('environment'))].toSorted());
});

t.test('every error code is here', async (t) => {
  t.strictSame(await namesOf('errors'), Object.keys(codes));
});

t.test('every metric that the source names is here', async (t) => {
  const names = await namesOf('metrics');
  // Tables of SQL have such names too.
  const plain = [...registering.matchAll(/'((?:istio|sallyport|identity_cert)_[a-z0-9_]+)'/g)].map(([, name]) => name!);
  const ofCa = [...sources.matchAll(/\b(?:counter|gauge)\('([a-z]+_[a-z_]+)'/g)].map(([, name]) =>
    /^(?:sallyport|identity|istio)_/.test(name!) ? name! : `sallyport_ca_${name}`,
  );
  for (const name of new Set([...plain, ...ofCa])) t.ok(names.includes(name), name);
  t.not(plain.length * ofCa.length, 0);
});

t.test('every field of the access log is here, and no other', async (t) => {
  const log = readFileSync(`${root}/sidecar/access-log.ts`, 'utf8');
  const written = [...log.matchAll(/"([a-z_]+)":/g), ...sources.matchAll(/noteInLog\(\w+, \{ name: '([a-z_]+)'/g)].map(
    ([, name]) => name!,
  );
  t.strictSame([...new Set(written)].toSorted(), [...(await namesOf('log'))].toSorted());
});
