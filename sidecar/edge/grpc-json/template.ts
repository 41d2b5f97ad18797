// Path templates of `google.api.http`: `/v1/{name=shelves/*}/books/{id}:verb`. A path is looked up in a tree: literals
// come before `*`, and `*` before `**`, from the left.

/** A variable of a template: the field's path, and the segments that it binds. */
export interface Variable {
  readonly field: string;
  readonly from: number;
  /** Exclusive; undefined: to the end. */
  readonly to: number | undefined;
  /** Bound to several segments: reserved characters stay encoded. */
  readonly isMulti: boolean;
}

/** A parsed template. `verb` is empty without one. */
export interface Template {
  /** Literals, `*`, and `**` at the end. */
  readonly segments: readonly string[];
  readonly verb: string;
  readonly variables: readonly Variable[];
}

const literal = /^[A-Za-z0-9._~!$&'()*+,;=@%-]+$/;
const fieldPath = /^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*$/;

/** @throws Error that describes the fault. */
export function parseTemplate(text: string): Template {
  const [, path = '', verb = ''] = /^\/(.*?)(?::([^:/{}*]+))?$/s.exec(text) ?? [];
  if (!text.startsWith('/') || path === '') throw new Error(`'${text}' is not a path template`);
  const segments: string[] = [];
  const variables: Variable[] = [];
  const add = (segment: string): void => {
    if (segments.at(-1) === '**') throw new Error(`'${text}': nothing may follow **`);
    if (segment !== '*' && segment !== '**' && (segment.includes('*') || !literal.test(segment)))
      throw new Error(`'${text}': '${segment}' is not a segment`);
    segments.push(segment);
  };
  for (let rest = path; ; ) {
    const [whole, field, inner] = /^\{([^{}=]*)(?:=([^{}]*))?\}/.exec(rest) ?? [];
    if (whole === undefined) {
      const end = rest.search(/\/|$/);
      add(rest.slice(0, end));
      rest = rest.slice(end);
    } else {
      if (!fieldPath.test(field!)) throw new Error(`'${text}': '${field}' is not a field`);
      const from = segments.length;
      const parts = (inner ?? '*').split('/');
      for (const part of parts) add(part);
      const isOpen = segments.at(-1) === '**';
      variables.push({
        field: field!,
        from,
        to: isOpen ? undefined : segments.length,
        isMulti: isOpen || parts.length > 1,
      });
      rest = rest.slice(whole.length);
    }
    if (rest === '') break;
    if (!rest.startsWith('/')) throw new Error(`'${text}': '${rest}' follows a variable`);
    rest = rest.slice(1);
  }
  return { segments, verb, variables };
}

/** Thrown for a path whose escapes are not UTF-8. */
export class EscapesInvalid extends Error {}

/** The values of a template's variables in a path that matches it. @throws EscapesInvalid. */
export function valuesOf({ variables }: Template, segments: readonly string[]): readonly (readonly [string, string])[] {
  return variables.map(({ field, from, to, isMulti }) => [
    field,
    segments
      .slice(from, to)
      .map((one) => decoded(one, isMulti))
      .join('/'),
  ]);
}

/** In several segments an encoded slash must not become one (google.api.http, "path template syntax"). */
function decoded(segment: string, keepsSlashes: boolean): string {
  if (!segment.includes('%')) return segment;
  try {
    return keepsSlashes
      ? segment
          .split(/(%2f)/i)
          .map((part) => (/^%2f$/i.test(part) ? part : decodeURIComponent(part)))
          .join('')
      : decodeURIComponent(segment);
  } catch {
    throw new EscapesInvalid(`the path has escapes that are not UTF-8`);
  }
}

interface Node<T> {
  readonly next: Map<string, Node<T>>;
  /** By verb, then by method. */
  readonly here: Map<string, Map<string, T>>;
}

/** The value at a path, chosen by the request's method. */
export interface Found<T> {
  readonly value: T;
  /** The path's segments, without its verb. */
  readonly segments: readonly string[];
}

/** Values by template and method. */
export class TemplateTree<T> {
  readonly #root: Node<T> = { next: new Map(), here: new Map() };

  /** The value that already has this place; undefined if `value` got it. */
  add({ segments, verb }: Template, method: string, value: T): T | undefined {
    let node = this.#root;
    for (const segment of segments) {
      let next = node.next.get(segment);
      if (next === undefined) {
        next = { next: new Map(), here: new Map() };
        node.next.set(segment, next);
      }
      node = next;
    }
    let byMethod = node.here.get(verb);
    if (byMethod === undefined) {
      byMethod = new Map();
      node.here.set(verb, byMethod);
    }
    const known = byMethod.get(method);
    if (known === undefined) byMethod.set(method, value);
    return known;
  }

  /**
   * The value for a path, found as Envoy does: the first template with the method. If none has it, the methods of all
   * templates that match the path, in no order.
   * @param path without a query
   * @param pick the value for the request's method
   */
  find(path: string, pick: (byMethod: ReadonlyMap<string, T>) => T | undefined): Found<T> | readonly string[] {
    const segments = path.slice(1).split('/');
    const last = segments.at(-1)!;
    const colon = last.lastIndexOf(':');
    const methods = new Set<string>();
    const search: Search<T> = { segments, verb: '', pick, methods };
    // A colon that begins no verb of any template is part of the segment.
    if (colon > 0 && colon < last.length - 1) {
      const bare = [...segments.slice(0, -1), last.slice(0, colon)];
      const value = find({ ...search, segments: bare, verb: last.slice(colon + 1) }, this.#root, 0);
      if (value !== undefined) return { value, segments: bare };
      if (methods.size > 0) return [...methods];
    }
    const value = find(search, this.#root, 0);
    return value === undefined ? [...methods] : { value, segments };
  }
}

interface Search<T> {
  readonly segments: readonly string[];
  readonly verb: string;
  readonly pick: (byMethod: ReadonlyMap<string, T>) => T | undefined;
  /** The methods of templates that match the path, without the requested method. */
  readonly methods: Set<string>;
}

/** Each node is visited once at most: its depth is the place in the path. */
function find<T>(search: Search<T>, node: Node<T>, at: number): T | undefined {
  const { segments } = search;
  if (at === segments.length) return valueAt(search, node) ?? valueAt(search, node.next.get('**'));
  const segment = segments[at]!;
  // The names of wildcards are not literals.
  const exact = segment === '*' || segment === '**' ? undefined : node.next.get(segment);
  const any = segment === '' ? undefined : node.next.get('*');
  return (
    (exact && find(search, exact, at + 1)) ?? (any && find(search, any, at + 1)) ?? valueAt(search, node.next.get('**'))
  );
}

function valueAt<T>({ verb, pick, methods }: Search<T>, node: Node<T> | undefined): T | undefined {
  const byMethod = node?.here.get(verb);
  if (byMethod === undefined) return undefined;
  const value = pick(byMethod);
  if (value === undefined) for (const method of byMethod.keys()) methods.add(method);
  return value;
}
