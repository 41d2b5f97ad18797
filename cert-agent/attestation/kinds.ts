// The table of kinds, in the order in which an agent looks for evidence. A kind is its file and a line here.

import type { EnrolmentKind, GatheredKind } from './contract.ts';
import { joinToken } from './join-token.ts';
import { serviceAccountToken } from './kubernetes.ts';
import { heldSvid } from './svid.ts';

/** At the agent. */
export const gathered: readonly GatheredKind[] = [heldSvid, joinToken, serviceAccountToken];

/** At the CA, for workloads without an SVID. */
export const enrolments: readonly EnrolmentKind[] = [joinToken, serviceAccountToken];
