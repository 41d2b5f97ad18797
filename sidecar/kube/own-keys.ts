// Our labels and annotations on a pod: one that does not exist here, or not as this, refuses the pod. Passed over, a
// typing error would leave the pod with another sidecar than it asked for, or with one that it did not want.

import { nearestTo } from '../../cert-agent/base/did-you-mean.ts';
import { annotations, injectedLabel, injectLabel } from './names.ts';
import { isEqual } from './patch.ts';
import { type Tree, textOf, treeOf } from './tree.ts';

/** What users write. */
const userAnnotations: readonly string[] = [annotations.settings, annotations.protocols, annotations.policies];

/** Where else one of our names belongs. */
const elsewhere: Readonly<Record<string, string>> = {
  'sallyport.dev/injection': `it is a label of a Namespace: a pod has the label ${injectLabel}`,
  'sallyport.dev/identity': 'it is an annotation of a Service',
  'sallyport.dev/inherit': 'it is an annotation of a policy',
  'sallyport.dev/target-ports': 'injection writes it, on a Service',
};

/** What is wrong with our labels and annotations of a pod that has no sidecar; undefined if nothing is. */
export function wrongOwnKey(pod: Tree): string | undefined {
  const metadata = treeOf(pod['metadata']);
  for (const [key, value] of oursIn(metadata['labels'])) {
    const what = `label ${shorten(key)}`;
    if (typeof value !== 'string') return notText(what);
    // A NetworkPolicy selects 'true': under another value the pod would be outside of it.
    if (key === injectedLabel && value !== 'true') return `${what}: '${shorten(value)}' is not 'true'`;
    if (key !== injectedLabel && key !== injectLabel) return unknown(what, key, [injectLabel], userAnnotations);
  }
  for (const [key, value] of oursIn(metadata['annotations'])) {
    const what = `annotation ${shorten(key)}`;
    if (typeof value !== 'string') return notText(what);
    if (!userAnnotations.includes(key)) return unknown(what, key, userAnnotations, [injectLabel]);
  }
  return undefined;
}

/**
 * One of our names that is on a workload and not on its pod template, where nothing would read it; undefined if there is
 * none. Tools that label everything put it on both.
 */
export function misplacedOwnKey(workload: Tree, pod: Tree): string | undefined {
  if (workload === pod) return undefined;
  const job = treeOf(treeOf(workload['spec'])['jobTemplate']);
  for (const { metadata } of [workload, job])
    for (const map of ['labels', 'annotations']) {
      const ofPod = treeOf(treeOf(pod['metadata'])[map]);
      const lost = oursIn(treeOf(metadata)[map]).find(([key, value]) => !isEqual(ofPod[key], value));
      if (lost === undefined) continue;
      const kind = textOf(workload['kind']) ?? 'workload';
      return `${map.slice(0, -1)} ${shorten(lost[0])} is on the ${shorten(kind)}, and not as this on its pods: write it in the metadata of the pod template`;
    }
  return undefined;
}

/** Names are case-sensitive, but a slip in the case is one in a name of ours. */
function oursIn(map: unknown): readonly (readonly [string, unknown])[] {
  return Object.entries(treeOf(map)).filter(([key]) => key.toLowerCase().startsWith('sallyport.dev/'));
}

/** `here` are the names of the same sort, `there` those of the other one: label or annotation. */
function unknown(what: string, key: string, here: readonly string[], there: readonly string[]): string {
  const other = what.startsWith('label') ? 'an annotation' : 'a label';
  if (there.includes(key)) return `${what}: write it as ${other}`;
  if (Object.hasOwn(elsewhere, key)) return `${what}: ${elsewhere[key]}`;
  if ((Object.values(annotations) as string[]).includes(key))
    return `${what}: injection writes it: remove it, and inject the pod as it was`;
  const near = nearest(key, [...here, ...there]);
  const sort = there.includes(near ?? '') ? `, as ${other}` : '';
  return `${what} is unknown${near === undefined ? `; there are ${here.join(', ')}` : `: did you mean '${near}'${sort}?`}`;
}

/** By what follows the prefix, which is equal in all. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const nameOf = (one: string): string => one.slice(one.indexOf('/') + 1);
  const near = nearestTo(nameOf(key).slice(0, 63), known.map(nameOf));
  return known.find((one) => nameOf(one) === near);
}

function notText(what: string): string {
  return `${what} is not text: write it in quotes`;
}

function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
