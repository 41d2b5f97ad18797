// The answer to an AdmissionReview (admission.k8s.io/v1), a pure function: the same injection as `sallyport inject`, as
// a JSON Patch.

import { type InjectOptions, injectPodPatch } from './inject.ts';
import { isTree, textOf, treeOf } from './tree.ts';

/** What becomes of a pod that cannot get the sidecar that it asks for. `Fail` is Kubernetes' word, and so is `Ignore`. */
export type FailurePolicy = 'Fail' | 'Ignore';

/** A body that is no AdmissionReview of version v1. */
export class NoReview extends Error {}

export interface ReviewAnswer {
  readonly outcome: 'injected' | 'left_alone' | 'refused' | 'failed';
  readonly pod: string;
  readonly reason: string | undefined;
  readonly body: object;
}

/** Kubernetes cuts longer ones, and drops all beyond 4096 characters in sum. */
const longestWarning = 120;
const mostWarnings = 20;
/** Of a refusal, in the answer and in the log. */
const longestReason = 1000;

/**
 * The response to `review`. Requests about anything but the creation of a pod are allowed as they are.
 * @throws NoReview for what is no review: there is no request to answer.
 */
export function answerReview(
  review: unknown,
  options: Omit<InjectOptions, 'namespace'>,
  failurePolicy: FailurePolicy,
): ReviewAnswer {
  const { apiVersion, kind, request: given } = treeOf(review);
  if (apiVersion !== 'admission.k8s.io/v1' || kind !== 'AdmissionReview' || !isTree(given))
    throw new NoReview('the body is no AdmissionReview of admission.k8s.io/v1');
  const uid = textOf(given['uid']);
  if (uid === undefined || uid === '' || uid.length > 128) throw new NoReview('the request has no uid');
  const { group, kind: requested } = treeOf(given['kind']);
  const namespace = textOf(given['namespace']) ?? '';
  const object = given['object'];
  const { name, generateName } = treeOf(treeOf(object)['metadata']);
  const pod = `${namespace}/${textOf(name) ?? textOf(generateName) ?? ''}`.slice(0, 320);
  const answer = (outcome: ReviewAnswer['outcome'], response: object, reason?: string): ReviewAnswer => ({
    ...{ outcome, pod, reason },
    body: { apiVersion, kind, response: { uid, ...response } },
  });
  if ((group ?? '') !== '' || requested !== 'Pod' || given['operation'] !== 'CREATE' || namespace === '')
    return answer('left_alone', { allowed: true }, 'it is not the creation of a pod');
  const refuse = (outcome: 'refused' | 'failed', whole: string): ReviewAnswer => {
    // Names in it may be as long as the request.
    const message = shorten(whole, longestReason);
    return failurePolicy === 'Fail'
      ? answer(
          outcome,
          { allowed: false, status: { code: 400, reason: 'BadRequest', message: `sallyport: ${message}` } },
          message,
        )
      : answer(outcome, { allowed: true, warnings: [shorten(`sallyport: no sidecar: ${message}`)] }, message);
  };
  try {
    // A pod that is created has no namespace of its own yet.
    const done = injectPodPatch(object, { ...options, namespace });
    if (done.outcome === 'refused') return refuse('refused', done.reason);
    if (done.outcome === 'left_alone') return answer('left_alone', { allowed: true }, done.reason);
    const patch = Buffer.from(JSON.stringify(done.patch)).toString('base64');
    const warnings = done.notes.slice(0, mostWarnings).map((note) => shorten(`sallyport: ${note}`));
    return answer('injected', {
      ...{ allowed: true, patchType: 'JSONPatch', patch },
      ...(warnings.length > 0 && { warnings }),
    });
  } catch {
    return refuse('failed', 'the pod cannot be read');
  }
}

function shorten(text: string, longest = longestWarning): string {
  return text.length > longest ? `${text.slice(0, longest - 3)}...` : text;
}
