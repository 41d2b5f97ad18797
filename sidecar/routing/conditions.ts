// Conditions as Gateway API writes them into a status, and the statuses themselves: what `kubectl get -o json` would
// show.

/** Why a reference cannot be resolved: the standard's reason, and a sentence. */
export interface Unresolved {
  readonly reason: string;
  readonly message: string;
}

/** metav1.Condition. */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False';
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
}

/** Makes the conditions of one document. */
export type Say = (type: string, holds: boolean, reason: string, message?: string) => Condition;

/** `now` in milliseconds: the conditions' transition time. */
export function sayFor({ generation }: { readonly generation: number }, now: number): Say {
  const time = new Date(now).toISOString().replace(/\.\d+Z$/, 'Z');
  return function say(type, holds, reason, message = '') {
    return {
      type,
      status: holds ? 'True' : 'False',
      reason,
      message,
      observedGeneration: generation,
      lastTransitionTime: time,
    };
  };
}

/** Does the condition of this type hold? */
export function holds(conditions: readonly Condition[], type: string): boolean {
  return conditions.find((one) => one.type === type)?.status === 'True';
}
