// Fields that a running process cannot change. `config/watch.ts` refuses a reload that changes one of them.

import type { GatewaySettings, Settings } from './settings.ts';

/** Fields of sidecar.yaml and gateway.yaml, which have the same name in Settings. */
export const fixedSettings = [
  'trustDomain',
  'workload',
  'identity',
  'admin',
  'health',
  'accessLog',
  'tls',
  'federatedBundles',
  'learn',
] as const satisfies readonly (keyof Settings)[];

/** Those that only gateway.yaml has. */
export const fixedOfGateway = ['redis'] as const satisfies readonly (keyof GatewaySettings)[];
