// How long one client can make a listener stand still before it is known who that is: the longest stall of the event loop,
// the median of some tries, for each kind of listener and whatever test/fixtures/hostile.ts knows. Should stay under 5 ms.
//
//   npm run perf:strangers

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startCa } from '../cert-agent/ca/main.ts';
import { initCa } from '../cert-agent/ca/init.ts';
import { systemClock } from '../cert-agent/base/clock.ts';
import { createLog } from '../cert-agent/base/log.ts';
import { type HostileChain, hostileChains, longestStall, startStrangeClient } from '../test/fixtures/hostile.ts';
import { startBackend, startMesh } from '../test/fixtures/mesh.ts';
import { createAuthority } from '../test/fixtures/pki.ts';
import { tempDir } from '../test/fixtures/process.ts';
