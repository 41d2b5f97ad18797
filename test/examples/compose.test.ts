// The compose example: the file by itself, its commands as plain processes, and, where there is an engine and the base
// image, for real.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { ask } from '../../examples/two-services/demo/ask.ts';
import { ownImage, readCompose, startAsProcesses } from '../fixtures/compose.ts';
import { startProcess, tempDir, until } from '../fixtures/process.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const example = join(root, 'examples', 'compose');
const file = join(example, 'compose.yaml');

t.test('the file conforms to the Compose specification, and the files that it names exist', async (t) => {
  const compose = readCompose(file);
  const names = Object.keys(compose.services);
  const baseImage = /^FROM (\S+)$/m.exec(readFileSync(join(root, 'Dockerfile'), 'utf8'))?.[1];
  for (const [name, one] of Object.entries(compose.services)) {
    for (const volume of one.volumes) {
      const source = volume.split(':')[0]!;
      if (source.startsWith('.')) t.ok(existsSync(join(example, source)), `${name}: ${source}`);
      else t.ok(source in compose.volumes, `${name}: volume ${source} is declared`);
    }
    for (const other of one.depends_on) t.ok(names.includes(other), `${name} depends on ${other}`);
    const joined = /^service:(.+)$/.exec(one.network_mode ?? '')?.[1];
    if (joined !== undefined) t.ok(names.includes(joined), `${name} joins ${joined}`);
    if (one.image === ownImage) t.equal(one.pull_policy, 'never', `${name} runs on the image that is built here`);
    else t.equal(one.image, baseImage, `${name} runs on the pinned Node`);
    t.same([one.read_only, one.cap_drop], [true, ['ALL']], `${name} may do little`);
  }
  t.same(
    names.filter((name) => compose.services[name]!.build !== undefined),
    ['ca'],
    'one service builds the image',
  );
  const mounts = (volume: string): string[] =>
    names.filter((name) => compose.services[name]!.volumes.some((one) => one.startsWith(`${volume}:`)));
  t.same(mounts('ca'), ['ca'], "only the CA has the CA's keys");
  t.same(mounts('operator'), ['ca', 'web-token', 'orders-token']);
  t.same(mounts('web-token'), ['web-token', 'web-sidecar'], 'a token is seen by its sidecar only');
  t.same(mounts('orders-token'), ['orders-token', 'orders-sidecar']);
});

t.test('the tour works in a clone with Node alone', async (t) => {
  const clone = tempDir(t);
  for (const name of ['examples', 'cert-agent', 'sidecar', 'package.json'])
    cpSync(join(root, name), join(clone, name), { recursive: true });
  // A compose command that fails: the tour has loaded, and asks for the containers.
  const tour = startProcess(t, process.execPath, ['tour.ts'], {
    cwd: join(clone, 'examples', 'compose'),
    env: { COMPOSE: join(clone, 'compose') },
  });
  writeFileSync(join(clone, 'compose'), `#!/bin/sh\ntouch ${clone}/asked\nexit 1\n`, { mode: 0o755 });
  await Promise.race([until(() => existsSync(join(clone, 'asked')), 'the tour to ask'), tour.exited]);
  t.ok(existsSync(join(clone, 'asked')), tour.stderr());
});

t.test('its commands work as plain processes, started in the wrong order', async (t) => {
  const compose = readCompose(file);
  const order = ['web', 'orders', 'web-sidecar', 'orders-token', 'orders-sidecar', 'web-token', 'ca'];
  const services = await startAsProcesses(t, file, compose, order);
  const web = services.get('web')!;
  t.equal(await services.get('web-token')!.child.exited, 0);
  t.equal(await services.get('orders-token')!.child.exited, 0);
  for (const name of ['ca', 'web-sidecar', 'orders-sidecar'])
    await until(async () => (await services.get(name)!.health(t)) === 0, `${name} to be healthy`);
  t.match(await ask({ port: web.port(8082), path: '/' }), { status: 200, body: /a lantern/ });
  t.match(await ask({ port: web.port(15_001), host: 'orders', method: 'DELETE' }), {
    status: 403,
    body: 'RBAC: access denied',
  });
  await services.get('ca')!.child.stop();
  t.not(await services.get('ca')!.health(t), 0, 'a health check can fail');
});

const engine = engineAtHand();
// Building an image and starting ten containers beside other tests takes its time.
if (typeof engine !== 'string') t.setTimeout(300_000);

t.test('the tour works', { skip: typeof engine === 'string' ? engine : false, timeout: 290_000 }, async (t) => {
  if (typeof engine === 'string') return;
  // The tour adds a policy to the directory that is mounted: not to the one that other tests read.
  const copy = join(tempDir(t), 'examples');
  cpSync(join(root, 'examples'), copy, { recursive: true });
  cpSync(join(root, 'package.json'), join(copy, '..', 'package.json'));
  const [program, ...words] = engine.compose;
  const project = ['-p', `sallyport-test-${process.pid}`];
  const run = (command: string, args: readonly string[], cwd = join(copy, 'compose')) =>
    startProcess(t, command, args, { cwd, env: { COMPOSE: [...engine.compose, ...project].join(' ') } });
  const build = run(engine.name, ['build', ...engine.buildOptions, '-t', 'sallyport:local', '.'], root);
  t.equal(await build.exited, 0, build.stderr().slice(-2000));
  t.teardown(() => run(program!, [...words, ...project, 'down', '-v', '-t', '1']).exited);
  const up = run(program!, [...words, ...project, 'up', '-d']);
  t.equal(await up.exited, 0, up.stderr().slice(-2000));
  const tour = run(process.execPath, ['tour.ts']);
  t.equal(await tour.exited, 0, tour.stdout() + tour.stderr());
  t.equal(tour.stdout().match(/^ok /gm)?.length, 13, tour.stdout());
});

/** The engine and its compose command, or why there is none to use. */
function engineAtHand(): { name: string; compose: readonly string[]; buildOptions: readonly string[] } | string {
  const works = (command: string, ...args: string[]): boolean =>
    spawnSync(command, args, { stdio: 'ignore' }).status === 0;
  const image = /^FROM (\S+)/m.exec(readFileSync(join(root, 'Dockerfile'), 'utf8'))![1]!;
  if (works('docker', 'compose', 'version') && works('docker', 'info')) {
    if (!works('docker', 'image', 'inspect', image)) return `needs the image ${image} (docker pull ${image})`;
    return works('docker', 'run', '--rm', image, 'true')
      ? { name: 'docker', compose: ['docker', 'compose'], buildOptions: ['--network', 'host'] }
      : 'docker is here and cannot run a container';
  }
  if (!works('podman', 'info')) return 'needs docker compose, or podman with podman-compose';
  if (!works('podman', 'image', 'exists', image)) return `needs the image ${image} (podman pull ${image})`;
  // Before 1.1 it knew neither aliases nor `network_mode: service:`.
  const [, major, minor] = /podman-compose version:? (\d+)\.(\d+)/.exec(versionOf('podman-compose')) ?? [];
  if (major === undefined || (Number(major) === 1 && Number(minor) < 1)) return 'needs podman-compose 1.1 or later';
  if (!works('podman', 'run', '--rm', image, 'true')) return 'podman is here and cannot run a container';
  return { name: 'podman', compose: ['podman-compose'], buildOptions: ['--pull=never', '--network', 'host'] };
}

function versionOf(command: string): string {
  const { stdout, stderr } = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return `${stdout}${stderr}`;
}
