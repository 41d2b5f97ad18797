// `sallyport explain` and `sallyport schema` as commands, and that no field of any kind lacks a description; nor one of
// the settings files or of our own kinds an example that its schema takes, and a time at which a change applies.

import { Ajv2020 } from 'ajv/dist/2020.js';
import t from 'tap';
import { fixedOfGateway, fixedSettings } from '../../sidecar/config/fixed-settings.ts';
import { instead } from '../../sidecar/documents/gateway-api/instead.ts';
import { allFields, fieldOf } from '../../sidecar/reference/field.ts';
import type { JsonSchema } from '../../sidecar/reference/json-schema.ts';
import { kinds } from '../../sidecar/reference/kinds.ts';
import { lookUp, schemaOf } from '../../sidecar/reference/look-up.ts';
import { printField, printList, printTree } from '../../sidecar/reference/print.ts';
import { runCommand } from '../fixtures/command.ts';

/** The kinds whose words are ours. */
const ours = kinds.filter(({ of }) => of === 'file' || of === 'sallyport.dev');

/** Without formats: they are annotations in 2020-12. */
const ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false });

t.test('every field of every kind is described', async (t) => {
  for (const kind of kinds) {
    const all = allFields(fieldOf(await kind.schema(), kind.name));
    t.not(all.length, 0, kind.name);
    t.strictSame(
      all.filter(({ description = '' }) => !/^[A-Z`].*\.$/s.test(description)).map(({ path }) => path),
      [],
      `${kind.name}: each a sentence`,
    );
  }
});

t.test('every field of ours has an example', async (t) => {
  for (const kind of ours) {
    const top = fieldOf(await kind.schema(), kind.name);
    const own = allFields(kind.of === 'file' ? top : top.fields.find(({ name }) => name === 'spec')!).filter(
      ({ path }) => !/\.target(?:Refs?|Selectors)\b/.test(path),
    );
    if (kind.name !== 'GRPCWeb') t.not(own.length, 0, kind.name);
    for (const one of own) {
      if (one.fields.length === 0 && !one.refused) t.not(one.example, undefined, `${one.path}: an example`);
      if (kind.of === 'file') t.ok(one.applies, `${one.path}: when it applies`);
    }
  }
});

t.test('examples and defaults are valid by the schema', async (t) => {
  for (const kind of kinds) {
    const walk = (schema: JsonSchema, path: string): void => {
      const values = [...(schema.examples ?? []), ...(schema.default === undefined ? [] : [schema.default])];
      for (const value of values) {
        const { default: _, examples: __, ...plain } = schema;
        t.ok(ajv.validate(plain, value), `${path}: ${JSON.stringify(value)}: ${ajv.errorsText()}`);
      }
      for (const [name, one] of Object.entries(schema.properties ?? {})) walk(one, `${path}.${name}`);
      for (const one of [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])]) walk(one, path);
      if (schema.items !== undefined) walk(schema.items, path);
      if (typeof schema.additionalProperties === 'object') walk(schema.additionalProperties, path);
    };
    walk(await kind.schema(), kind.name);
  }
});

t.test('the settings that need a restart are those that a reload refuses', async (t) => {
  for (const [name, fixed] of [
    ['sidecar', [...fixedSettings]],
    ['gateway', [...fixedSettings, ...fixedOfGateway]],
  ] as const) {
    const { fields } = fieldOf(await kinds.find((one) => one.name === name)!.schema(), name);
    const restart = fields.filter(({ applies }) => applies === 'restart').map((one) => one.name);
    const known = fixed.filter((one) => fields.some((field) => field.name === one));
    t.strictSame(restart.toSorted(), known.toSorted());
  }
});

t.test('no line is wider than the terminal, except one word', async (t) => {
  const isWide = (line: string, width: number): boolean => line.length > width && line.trim().includes(' ');
  for (const kind of kinds) {
    const top = fieldOf(await kind.schema(), kind.name);
    for (const width of [40, 80]) {
      const text = [...[top, ...allFields(top)].map((one) => printField(one, width)), printTree(top, width)].join('\n');
      t.strictSame(
        text.split('\n').filter((line) => isWide(line, width) && !/^\s*\S+\s+\S+$/.test(line)),
        [],
        `${kind.name} at ${width}`,
      );
    }
  }
  for (const width of [40, 80])
    t.strictSame(
      printList(kinds, width)
        .split('\n')
        .filter((line) => isWide(line, width)),
      [],
    );
});

t.test('a path may have indices and names of entries, and a file its extension', async (t) => {
  for (const [asked, path] of [
    ['sidecar.yaml', 'sidecar'],
    ['SIDECAR.limits.headBytes', 'sidecar.limits.headBytes'],
    ['sidecar.yaml.inbound[0].port', 'sidecar.inbound.port'],
    ['sidecar.upstreams.orders.hosts', 'sidecar.upstreams.hosts'],
    ['sidecar.upstreams.orders', 'sidecar.upstreams'],
    ['sidecar.upstreams.hosts', 'sidecar.upstreams.hosts'],
    ['Gateway.spec.listeners', 'Gateway.spec.listeners'],
    ['gateway.listeners', 'gateway.listeners'],
    ['httpcache.spec.memory', 'HTTPCache.spec.memory'],
  ] as const) {
    const found = await lookUp(asked);
    t.match(found, { field: { path } }, asked);
  }
});

t.test('what is unknown is an error with the nearest name', async (t) => {
  for (const [asked, message, hint] of [
    ['sidecar.limits.headByte', "sidecar.limits has no field 'headByte'", "did you mean 'sidecar.limits.headBytes'?"],
    ['sidecar.headBytes', "sidecar has no field 'headBytes'", "did you mean 'sidecar.limits.headBytes'?"],
    [
      'sidecar.workload.qqqqqq',
      "sidecar.workload has no field 'qqqqqq'",
      "'sallyport explain sidecar.workload' lists what there is",
    ],
    ['sidcar', "there is no kind, table or name 'sidcar'", "did you mean 'sidecar'?"],
    ['constructor', "there is no kind, table or name 'constructor'", "'sallyport explain' lists what there is"],
    ['sidecar.constructor', "sidecar has no field 'constructor'", "'sallyport explain sidecar' lists what there is"],
  ] as const)
    await t.rejects(lookUp(asked), { code: 'usage', message, hint }, asked);
  await t.rejects(schemaOf('HTTPRoot'), { code: 'usage', hint: "did you mean 'HTTPRoute'?" });
});

t.test('the commands', async (t) => {
  const field = await runCommand(t, ['explain', 'sidecar.limits.headBytes']);
  t.match(field, { code: 0, stderr: '' });
  t.match(field.stdout, /type {5}integer\n {2}unit {5}bytes\n {2}default {2}61440\n {2}bounds {3}1024 to 1048576\n/);
  t.match((await runCommand(t, ['explain', 'sidecar.identity'])).stdout, /applies {3}after a restart/);
  t.match((await runCommand(t, ['explain', 'gateway', '--recursive'])).stdout, /^gateway\n {2}trustDomain <string>\n/);
  const json = JSON.parse((await runCommand(t, ['explain', 'sidecar.limits', '--json'])).stdout) as {
    fields: object[];
  };
  t.match(json, { path: 'sidecar.limits', type: 'object', applies: 'reload' });
  t.match(json.fields[0], { path: 'sidecar.limits.headBytes', unit: 'bytes', default: 61_440, example: 61_440 });
  t.match((await runCommand(t, ['explain'])).stdout, /^ {2}sidecar +sidecar\.yaml: one sidecar\.$/m);
  t.match(await runCommand(t, ['explain', 'sidecar.nothing']), { code: 2, stdout: '' });
  t.match(await runCommand(t, ['schema', 'Nothing']), { code: 2, stdout: '' });
  t.match(JSON.parse((await runCommand(t, ['schema', 'sidecar'])).stdout), {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'sidecar',
    properties: { limits: { properties: { headBytes: { minimum: 1024, 'x-unit': 'bytes' } } } },
  });
});

t.test('a kind that exists and is not read is said to be so, with what to use instead', async (t) => {
  for (const [asked, message, hint] of [
    ['VirtualService', 'kind VirtualService is not served here', 'write it as an HTTPRoute'],
    ['envoyfilter.spec', 'kind EnvoyFilter is not served here', /extensionProviders/],
    ['ListenerSet', 'kind ListenerSet is not served here', 'write its listeners into their Gateway'],
    ['EnvoyPatchPolicy', 'kind EnvoyPatchPolicy is not served here', /extAuth/],
  ] as const)
    await t.rejects(lookUp(asked), { code: 'usage', message, hint });
  const read = kinds.map(({ name }) => name.toLowerCase());
  for (const [kind, hint] of instead)
    if (!read.includes(kind.toLowerCase()))
      await t.rejects(lookUp(kind), { message: `kind ${kind} is not served here`, hint });
});

t.test('no kind but one that is read in part is both explained and said not to be read', async (t) => {
  const both = kinds.filter(({ name }) => instead.has(name)).map(({ name }) => name);
  t.strictSame(both, ['ClientTrafficPolicy']);
});
