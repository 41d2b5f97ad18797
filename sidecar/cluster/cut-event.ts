// An event that is too large is not kept, and must not stop the others: what it is about stands in its first bytes.

/** The part of an event that was kept. */
export interface CutEvent {
  readonly head: string;
}

/** What it says of its object; undefined where that is not among the bytes that were kept. */
export interface EventFields {
  readonly type: string | undefined;
  readonly kind: string | undefined;
  readonly name: string | undefined;
  readonly namespace: string | undefined;
  readonly resourceVersion: string | undefined;
}

const wanted: Readonly<Record<string, keyof EventFields>> = {
  type: 'type',
  'object.kind': 'kind',
  'object.metadata.name': 'name',
  'object.metadata.namespace': 'namespace',
  'object.metadata.resourceVersion': 'resourceVersion',
};

/** The deepest of these. Below it nothing is looked at. */
const deepest = 3;

/** Reads the beginning of a JSON object. Text of an object's own fields is never taken for what the API server says. */
export function fieldsOf({ head }: CutEvent): EventFields {
  const found: { -readonly [field in keyof EventFields]: string | undefined } = {
    ...{ type: undefined, kind: undefined, name: undefined, namespace: undefined, resourceVersion: undefined },
  };
  /** Of each object and array that is open: the name of its next value; undefined in an array. */
  const open: (string | undefined)[] = [];
  let isName = false;
  for (let i = 0; i < head.length; i++) {
    const character = head[i];
    if (character === '{' || character === '[') {
      open.push(character === '{' ? '' : undefined);
      isName = character === '{';
    } else if (character === '}' || character === ']') open.pop();
    else if (character === ',') isName = open.at(-1) !== undefined;
    else if (character === '"') {
      const end = endOfString(head, i);
      if (end === undefined) return found;
      if (isName) open[open.length - 1] = head.slice(i + 1, end);
      else if (open.length <= deepest) {
        const field = wanted[open.join('.')];
        if (field !== undefined) found[field] = head.slice(i + 1, end);
      }
      isName = false;
      i = end;
    }
  }
  return found;
}

/** Where the string that begins at `from` ends; undefined if that was cut. */
function endOfString(text: string, from: number): number | undefined {
  for (let end = text.indexOf('"', from + 1); end !== -1; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text[end - 1 - slashes] === '\\') slashes++;
    if (slashes % 2 === 0) return end;
  }
  return undefined;
}
