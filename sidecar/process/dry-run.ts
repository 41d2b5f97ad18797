// Evaluates a gateway's documents without serving them, by the same steps as a running gateway up to its compiled
// rules.

import { formatProblem } from '../../cert-agent/base/errors.ts';
import type { Snapshot } from '../cluster/store.ts';
import { refusing } from '../compile/backends.ts';
import { readJudged } from '../compile/gateway-status.ts';
import type { RedisSettings, Settings } from '../config/settings.ts';
import { capabilities } from '../edge/capabilities.ts';
import { parseTarget } from '../edge/redis.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import type { StatusList } from '../routing/status.ts';
import { Jwks } from '../tokens/jwks.ts';
import { RunningGateway } from './gateway.ts';

/**
 * Evaluates gateway.yaml, or a directory of documents, without serving: the statuses that a running gateway would show,
 * its warnings, the protocol of each backend, and its Redis. `objects` are those of the API server that gateway.yaml
 * names.
 * @throws SallyportError `config_invalid` or `config_unreadable` for what would prevent the start.
 */
export async function readStatus(
  path: string,
  now: number,
  objects?: Snapshot,
): Promise<{
  readonly list: StatusList;
  readonly warnings: readonly string[];
  readonly spoken: readonly string[];
  readonly redis: RedisSettings | undefined;
  /** Undefined for a directory of documents. */
  readonly settings: Settings | undefined;
}> {
  const { configuration, isWhole, passedOver, gateway, pools, spoken, redis } = await planDry(path, now, objects);
  const nowhere = refusing('rule_broken', 'nothing is served here');
  // Documents alone do not show what is missing: it may be defined elsewhere.
  if (isWhole) gateway.compile(configuration, new Map(pools.map(({ name }) => [name, nowhere])));
  return {
    list: gateway.status(now)!,
    warnings: [...passedOver.map(formatProblem), ...gateway.warnings()],
    spoken,
    redis,
    settings: isWhole ? configuration.settings : undefined,
  };
}

/** The documents of a path as a gateway that serves nothing plans them. */
export async function planDry(path: string, now: number, objects?: Snapshot) {
  const read = await readJudged(path, objects);
  const { redis } = read.configuration.settings.gateway!;
  if (redis !== undefined) parseTarget(redis).secrets();
  const jwks = new Jwks(undefined);
  const parts = { jwks, log: undefined, observe: () => {} };
  const dry = { keysOf: (rule: JwtRule) => jwks.sourceOf(rule), hasRedis: redis !== undefined };
  const gateway = new RunningGateway(parts, new Map(capabilities.map(({ name, shareDry }) => [name, shareDry?.(dry)])));
  const plan = gateway.plan(read.configuration, now);
  return { ...read, redis, gateway, plan, pools: plan.pools, spoken: plan.spoken };
}
