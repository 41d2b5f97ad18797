// Refusals as the admin port shows them: a line in the list, and one with its explanation.

import type { Explanation } from '../policy/explain.ts';

/** A refusal in the list; plain data. */
export interface DenialLine {
  readonly id: string;
  readonly time: string;
  readonly code: string;
  readonly policy: string;
  readonly from: string;
  /** False for a connection that was refused before a request. */
  readonly isRequest: boolean;
  readonly request: string;
}

/** A refusal with its explanation; plain data. */
export interface Why {
  readonly id: string;
  readonly time: string;
  readonly code: string;
  readonly reason: string;
  readonly request: {
    readonly protocol: string;
    readonly principal: string;
    readonly method: string;
    readonly path: string;
  };
  /** The rule that decided, as in the access log; `-` where none did. */
  readonly policy: string;
  /** At a gateway the reason is all there is: its SecurityPolicies are evaluated in their order. */
  readonly gateway: boolean;
  /** Null at a gateway, and if the policies that decided it are no longer kept. */
  readonly explanation: Explanation | null;
}
