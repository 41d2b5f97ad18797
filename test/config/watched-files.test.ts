// An access log often lies beside sidecar.yaml or among its documents. Only events that may change the configuration
// cause a reading.

import {
  appendFileSync,
  linkSync,
  mkdirSync,
  renameSync,
  symlinkSync,
  type WatchListener,
  watch,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { watchConfiguration } from '../../sidecar/config/watch.ts';
import { WatchedFiles } from '../../sidecar/config/watched-files.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { allowAll, readHere } from '../fixtures/mesh.ts';
import { tempDir } from '../fixtures/process.ts';

interface Watched {
  generation(): number;
  /** True if this change of `path` causes a reading: only then is the silent edit before it found. */
  isRead(path: string, change: () => void): Promise<boolean>;
}

const settingsText = (log: string): string => `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }
inbound: [{ port: 8443, app: "127.0.0.1:8080" }]
policies: policies/
accessLog: ${log}
learn: { file: policies/learned }
`;

/** Watches `directory`/sidecar.yaml by events alone: the next look without one is an hour away. */
async function follow(t: Test, directory: string): Promise<Watched> {
  const watched = await watchConfiguration(
    join(directory, 'sidecar.yaml'),
    captureLog().log,
    undefined,
    readHere,
    3_600_000,
  );
  t.teardown(() => watched.close());
  const generation = (): number => watched.configuration.current().generation;
  // A second name of a document outside the watched directories: an edit under that name causes no event in them.
  const silent = join(tempDir(t), 'policy.yaml');
  linkSync(join(directory, 'policies', 'policy.yaml'), silent);
  let edits = 0;
  return {
    generation,
    async isRead(path, change) {
      const before = generation();
      appendFileSync(silent, `# ${++edits}\n`);
      const { promise, resolve } = Promise.withResolvers<void>();
      const listener: WatchListener<string> = (_event, name) => name === basename(path) && resolve();
      const own = watch(dirname(path), listener);
      change();
      await promise;
      own.close();
      // An event is handled in the turn after it, and what is read is in force in the turn after that.
      for (let i = 0; i < 4; i++) await turn();
      return generation() > before;
    },
  };
}

function write(directory: string, log: string): void {
  writeFileSync(join(directory, 'sidecar.yaml'), settingsText(log));
  mkdirSync(join(directory, 'policies'));
  writeFileSync(join(directory, 'policies', 'policy.yaml'), allowAll);
}

for (const [where, log] of [
  ['beside sidecar.yaml', 'access.log'],
  ['among the documents', 'policies/access.log'],
] as const)
  t.test(`an access log ${where} causes no reload`, async (t) => {
    const directory = tempDir(t);
    write(directory, log);
    const path = join(directory, log);
    writeFileSync(path, '');
    const watched = await follow(t, directory);
    for (let line = 0; line < 5; line++)
      t.notOk(await watched.isRead(path, () => appendFileSync(path, `${line}\n`)), `line ${line}`);
    t.notOk(await watched.isRead(`${path}.1`, () => renameSync(path, `${path}.1`)), 'a rotation');
    t.notOk(await watched.isRead(path, () => writeFileSync(path, '')), 'the new log');
    const learned = join(directory, 'policies', 'learned');
    const temporary = join(directory, 'policies', '.learned.0123456789ab.tmp');
    t.notOk(await watched.isRead(temporary, () => writeFileSync(temporary, '{}')), 'the learned traffic, written');
    t.notOk(await watched.isRead(learned, () => renameSync(temporary, learned)), 'and replaced');
    t.equal(watched.generation(), 1);
  });

t.test('edits, new files, renames and removals cause a reload', async (t) => {
  const directory = tempDir(t);
  write(directory, 'access.log');
  const watched = await follow(t, directory);
  const at = (name: string): string => join(directory, name);
  const file = at('sidecar.yaml');
  t.ok(await watched.isRead(file, () => appendFileSync(file, '# edited\n')), 'sidecar.yaml written in place');
  writeFileSync(at('next'), settingsText('access.log'));
  t.ok(await watched.isRead(file, () => renameSync(at('next'), file)), 'renamed over the old file');
  const document = at('policies/policy.yaml');
  t.ok(await watched.isRead(document, () => appendFileSync(document, '# edited\n')), 'a document written in place');
  const other = at('policies/other.yaml');
  t.ok(
    await watched.isRead(other, () => writeFileSync(other, allowAll.replace('allow-all', 'other'))),
    'a new document',
  );
  t.ok(await watched.isRead(other, () => renameSync(other, at('other.yaml'))), 'a document that is moved away');
  const notes = at('policies/notes.txt');
  t.ok(await watched.isRead(notes, () => writeFileSync(notes, '')), 'any name may be a configured one');
  const policies = at('policies');
  t.notOk(await watched.isRead(policies, () => renameSync(policies, at('was'))), 'without the files nothing is valid');
  t.ok(await watched.isRead(policies, () => renameSync(at('was'), policies)), 'the directory exists again');
});

t.test("a Kubernetes volume is read when '..data' is switched", async (t) => {
  const directory = tempDir(t);
  const volume = join(directory, 'volume');
  mkdirSync(volume);
  const swap = (version: string, text: string): void => {
    mkdirSync(join(volume, version));
    writeFileSync(join(volume, version, 'sidecar.yaml'), text);
    symlinkSync(version, join(volume, '..data_tmp'));
    renameSync(join(volume, '..data_tmp'), join(volume, '..data'));
  };
  mkdirSync(join(volume, 'policies'));
  writeFileSync(join(volume, 'policies', 'policy.yaml'), allowAll);
  swap('..2026_1', settingsText('access.log'));
  symlinkSync('..data/sidecar.yaml', join(volume, 'sidecar.yaml'));
  const watched = await follow(t, volume);
  for (const version of ['..2026_2', '..2026_3'])
    t.ok(
      await watched.isRead(join(volume, '..data'), () => swap(version, `${settingsText('access.log')}# ${version}\n`)),
    );
  const log = join(volume, 'access.log');
  t.notOk(await watched.isRead(log, () => writeFileSync(log, 'line\n')), 'the log beside it causes none');
});

t.test('which events cause a reload', async (t) => {
  const directory = tempDir(t);
  const documents = join(directory, 'documents');
  mkdirSync(documents);
  symlinkSync('documents', join(directory, 'link'));
  symlinkSync('../shared.yaml', join(documents, 'shared.yaml'));
  const files = new WatchedFiles(join(directory, 'sidecar.yaml'));
  const naming = (accessLog: string): Parameters<WatchedFiles['found']>[0] => ({
    ...{ policies: documents, gateway: undefined, accessLog, learn: undefined },
  });
  const found = { contents: [documents], links: [join(documents, 'shared.yaml')] };
  t.ok(files.concerns('access.log', directory), 'before the first load all events count');
  files.found(naming(join(documents, 'access.log')), found);
  const cases: [string | null, string, boolean][] = [
    ['sidecar.yaml', directory, true],
    ['documents', directory, true],
    ['access.log', directory, false],
    ['shared.yaml', directory, true],
    ['other.yaml', directory, false],
    [null, directory, true],
    ['\ufffd', directory, true],
    ['access.log', documents, false],
    ['access.log.1', documents, false],
    ['access.log.gz', documents, true],
    ['other.log', documents, true],
    ['new.yaml', documents, true],
    ['..data', documents, true],
    [null, documents, true],
  ];
  for (const [name, where, counts] of cases)
    t.equal(files.concerns(name, where), counts, `${name} in ${basename(where)}`);
  files.found(naming(join(directory, 'link', 'access.log')), found);
  t.notOk(files.concerns('access.log', documents), 'the log is named through a link');
  files.found(naming(join(documents, 'log.json')), found);
  t.ok(files.concerns('log.json', documents), 'a log with the name of a document');
  files.found(naming('stdout'), found);
  t.ok(files.concerns('access.log', documents), 'a file that is not our log');
  files.lost();
  t.ok(files.concerns('other.yaml', directory), 'after a failure all events count');
});
