// `gateway --check` and the Redis of gateway.yaml: a Cluster node is refused with a message; an unreachable one is
// reported.

import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { writeGateway } from '../fixtures/gateway.ts';
import { freePort, type Owner, tempDir } from '../fixtures/process.ts';
import { noRedis, startRedis } from '../fixtures/redis.ts';

async function check(t: Owner, url: string): Promise<{ code: number | null; stderr: string }> {
  const { file } = await writeGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `redis: { url: "${url}" }\n`,
    documents:
      'apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n',
  });
  return runCommand(t, ['gateway', '--config', file, '--check']);
}

t.test('a node of a Redis Cluster', { skip: noRedis }, async (t) => {
  const nodes = join(tempDir(t), 'nodes.conf');
  const redis = await startRedis(t, ['--cluster-enabled', 'yes', '--cluster-config-file', nodes]);
  const { code, stderr } = await check(t, redis.url);
  t.not(code, 0);
  t.match(stderr, /Redis at 127\.0\.0\.1:\d+ is a node of a Redis Cluster, which is not supported/);
});

t.test('a single Redis', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const { code, stderr } = await check(t, redis.url);
  t.equal(code, 0);
  t.notMatch(stderr, /warning/);
});

t.test('no Redis', async (t) => {
  const { code, stderr } = await check(t, `redis://127.0.0.1:${await freePort()}`);
  t.equal(code, 0, 'it may start later');
  t.match(stderr, /warning: Redis at 127\.0\.0\.1:\d+ is unavailable: .*ECONNREFUSED/);
});
