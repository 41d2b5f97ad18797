// An OpenAPI document, 3.0 or 3.1, as operations and one JSON Schema that holds all schemas in use. Runs in the process
// that reads documents.

import { isProxyField } from '../../exchange/proxy-fields.ts';
import { foldName } from '../../policy/header-name.ts';
import { isJson } from '../content.ts';
import type { ApiPlan, Body, Content, Operation, Parameter, Part, Response, Scheme, Shape, Style } from './api-plan.ts';
import { Schemas } from './api-schemas.ts';
import { Discriminators } from './discriminator.ts';
import type { SchemaProblem } from './generate.ts';
import { type Kind, unknownFields } from './keywords.ts';
import { templateProblem } from './routes.ts';
import { anything, Shapes } from './shapes.ts';
import { isNode, type Node } from './subschemas.ts';
import { isExploded } from './written.ts';

type Path = SchemaProblem['path'];

/** The document as read. With `problems` its plan is incomplete. */
export interface ReadApi {
  readonly plan: Pick<ApiPlan, 'operations'>;
  /** Has an entry for each name of a function, and more. */
  readonly schema: { readonly $defs: Node };
  readonly problems: readonly SchemaProblem[];
  /** Parts that are not compared: once for each message, at its first place. */
  readonly warnings: readonly SchemaProblem[];
  /** The place in the document of a path into `schema`. */
  placeOf(path: Path): Path;
}

const methods = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace'] as const;

/** Reads the document at `root`, its path in the file. Never throws: all problems are in the result. */
export function readOpenApi(document: Node, root: Path, basePath?: string): ReadApi {
  return new Reader(document, root, basePath).read();
}

class Reader {
  readonly #document: Node;
  readonly #root: Path;
  readonly #basePath: string | undefined;
  /** By their text. */
  readonly #problems = new Map<string, SchemaProblem>();
  #failed = 0;
  /** Their places, by the message. */
  readonly #warnings = new Map<string, Map<string, Path>>();
  /** 3.0 has a dialect of its own. */
  #is30 = false;
  readonly #schemas: Readonly<Record<'request' | 'response', Schemas>>;
  readonly #shapes = new Shapes(this);
  readonly discriminators: Discriminators;

  constructor(document: Node, root: Path, basePath: string | undefined) {
    this.#document = document;
    this.#root = root;
    this.#basePath = basePath;
    this.discriminators = new Discriminators(document, this);
    const schemas = (of: 'request' | 'response') => new Schemas(of, this);
    this.#schemas = { request: schemas('request'), response: schemas('response') };
  }

  get is30(): boolean {
    return this.#is30;
  }

  fail(path: Path, message: string): undefined {
    this.#failed++;
    // A shared part is read for each operation that refers to it.
    this.#problems.set(JSON.stringify([path, message]), { path: [...this.#root, ...path], message });
    return undefined;
  }

  #checkFields(kind: Kind, node: Node, at: Path): void {
    for (const name of unknownFields(kind, node)) this.fail([...at, name], `unknown field '${name}' of this ${kind}`);
  }

  warn(path: Path, message: string): void {
    const places = this.#warnings.get(message) ?? new Map<string, Path>();
    this.#warnings.set(message, places.set(path.join('/'), [...this.#root, ...path]));
  }

  #warningOf([message, places]: readonly [string, ReadonlyMap<string, Path>]): SchemaProblem {
    const [path = []] = places.values();
    return { path, message: places.size === 1 ? message : `${message} (places: ${places.size})` };
  }

  read(): ReadApi {
    const { openapi, swagger } = this.#document;
    const version = String(openapi);
    if (openapi === undefined && swagger !== undefined)
      this.fail(['swagger'], `Swagger ${String(swagger)} is not supported: convert the document to OpenAPI 3.0 or 3.1`);
    else if (!/^3\.[01](?:\.|$)/.test(version))
      this.fail(['openapi'], `version '${version}' is neither 3.0 nor 3.1: write it in full, such as 3.0.4`);
    this.#is30 = version.startsWith('3.0');
    if (swagger === undefined) this.#checkFields('document', this.#document, []);
    const operations = swagger === undefined ? this.#readPaths() : [];
    if (operations.length === 0 && this.#failed === 0) this.fail(['paths'], 'the document has no operation');
    const all = [this.#schemas.request, this.#schemas.response];
    return {
      plan: { operations },
      schema: { $defs: Object.assign({}, ...all.map(({ defs }) => defs)) as Node },
      problems: [...this.#problems.values()],
      warnings: [...this.#warnings].map(this.#warningOf),
      placeOf: (path) => {
        const [, name = '', ...rest] = path;
        const origin = all.map(({ origins }) => origins.get(String(name))).find((one) => one !== undefined) ?? [];
        return [...this.#root, ...origin, ...rest];
      },
    };
  }

  #readPaths(): Operation[] {
    const { paths } = this.#document;
    if (!isNode(paths)) {
      this.fail(['paths'], 'paths: must be an object');
      return [];
    }
    const shapes = new Map<string, string>();
    return Object.entries(paths).flatMap(([path, written]) => {
      if (path.startsWith('x-')) return [];
      const at: Path = ['paths', path];
      const wrong = templateProblem(path);
      if (wrong !== undefined) return this.fail(at, wrong) ?? [];
      // OpenAPI: "templated paths with the same hierarchy but different templated names MUST NOT exist".
      const shape = path.replace(/\{[^}]*\}/g, '{}');
      const before = shapes.get(shape);
      if (before !== undefined) return this.fail(at, `'${path}' matches the same requests as '${before}'`) ?? [];
      shapes.set(shape, path);
      const item = this.resolve(written, at);
      if (item === undefined) return [];
      this.#checkFields('path item', item.node, item.path);
      return methods.flatMap((method) =>
        item.node[method] === undefined ? [] : (this.#readOperation(path, method, item.node, item.path) ?? []),
      );
    });
  }

  #readOperation(path: string, method: string, item: Node, at: Path): Operation | undefined {
    const own = item[method];
    const here: Path = [...at, method];
    if (!isNode(own)) return this.fail(here, `${method}: must be an object`);
    this.#checkFields('operation', own, here);
    const failed = this.#failed;
    const parameters = this.#readParameters(
      [item['parameters'], [...at, 'parameters']],
      [own['parameters'], [...here, 'parameters']],
    );
    const inPath = new Set(parameters.flatMap((one) => (one.in === 'path' ? [one.name] : [])));
    // An unreadable parameter may be the one that is missing.
    const isWhole = this.#failed === failed;
    const variables = new Set([...path.matchAll(/\{([^}]*)\}/g)].map(([, name = '']) => name));
    for (const name of isWhole ? variables : [])
      if (!inPath.has(name)) this.fail(here, `${method} ${path}: '{${name}}' has no parameter`);
    for (const name of inPath)
      if (!variables.has(name)) this.warn(here, `${method} ${path}: the path has no '{${name}}' for its parameter`);
    return {
      ...{ method: method.toUpperCase(), path, parameters },
      ...(typeof own['operationId'] === 'string' ? { operationId: own['operationId'] } : {}),
      basePaths: this.#basePaths(own['servers'] ?? item['servers'] ?? this.#document['servers']),
      body: this.#readBody(own['requestBody'], [...here, 'requestBody']),
      responses: this.#readResponses(own['responses'], [...here, 'responses']),
      security:
        own['security'] === undefined
          ? this.#readSecurity(this.#document['security'], ['security'])
          : this.#readSecurity(own['security'], [...here, 'security']),
    };
  }

  /** The paths of the servers' URLs, which may be relative and have variables. */
  #basePaths(servers: unknown): readonly string[] {
    if (this.#basePath !== undefined) return [this.#basePath.replace(/\/+$/, '')];
    const list = Array.isArray(servers) && servers.length > 0 ? servers : [{ url: '/' }];
    const paths = list.flatMap((server: unknown) => {
      if (!isNode(server)) return [];
      const variables = isNode(server['variables']) ? server['variables'] : {};
      const url = String(server['url']).replace(/\{([^}]*)\}/g, (_, name: string) => {
        const variable = variables[name];
        return isNode(variable) ? String(variable['default']) : '';
      });
      const path = URL.parse(url, 'http://server.invalid/')?.pathname ?? '/';
      return [path.replace(/\/+$/, '')];
    });
    return [...new Set(paths)];
  }

  /** An operation's parameter replaces the one of its path with the same name and place. */
  #readParameters(...lists: readonly (readonly [written: unknown, path: Path])[]): Parameter[] {
    const found = new Map<string, Parameter>();
    for (const [list, at] of lists) {
      if (list === undefined) continue;
      if (!Array.isArray(list)) {
        this.fail(at, 'parameters: must be a list');
        continue;
      }
      const own = new Set<string>();
      for (const [index, written] of list.entries()) {
        const read = this.#readParameter(written, [...at, index]);
        if (read === undefined) continue;
        const key = `${read.in} ${read.in === 'header' ? read.name.toLowerCase() : read.name}`;
        if (own.has(key)) this.fail([...at, index], `the parameter '${read.name}' in ${read.in} is defined twice`);
        own.add(key);
        found.set(key, read);
      }
    }
    return [...found.values()];
  }

  #readParameter(written: unknown, at: Path): Parameter | undefined {
    const resolved = this.resolve(written, at);
    if (resolved === undefined) return undefined;
    const { node, path } = resolved;
    this.#checkFields('parameter', node, path);
    const place = node['in'];
    const name = String(node['name'] ?? '');
    if (place !== 'path' && place !== 'query' && place !== 'header' && place !== 'cookie')
      return this.fail([...path, 'in'], `'${String(place)}' is not one of path, query, header and cookie`);
    if (name === '') return this.fail(path, 'a parameter needs a name');
    // OpenAPI: a parameter definition with these names is ignored.
    if (place === 'header' && /^(?:accept|content-type|authorization)$/i.test(name)) return undefined;
    if (place === 'header' && isSetByProxies(name))
      this.warn(
        [...path, 'name'],
        `a gateway sets or removes '${name}' before it compares requests: the client's value is not compared`,
      );
    const style = (node['style'] ?? defaultStyle[place]) as Style;
    if (!styles[place].includes(style))
      return this.fail([...path, 'style'], `'${style}' is not a style of a parameter in ${place}`);
    const common: Omit<Parameter, 'json' | 'schema' | 'shape'> = {
      ...{ in: place, name, required: node['required'] === true || place === 'path' },
      ...{ style, explode: typeof node['explode'] === 'boolean' ? node['explode'] : style === 'form' },
      allowEmpty: place === 'query' && node['allowEmptyValue'] === true,
    };
    const content = node['content'];
    if (isNode(content)) {
      const [[type = '', media] = []] = Object.entries(content);
      if (!isJson(type))
        return this.fail([...path, 'content'], `a parameter of type '${type}' cannot be compared: only JSON can`);
      const schema = this.#schemaAt(isNode(media) ? media['schema'] : undefined, [...path, 'content', type, 'schema']);
      return { ...common, json: true, ...schema };
    }
    const read = { ...common, json: false, ...this.#schemaAt(node['schema'], [...path, 'schema']) };
    if ((place === 'query' || place === 'cookie') && isExploded(read) && read.shape.properties === undefined)
      this.warn(path, `the parameter '${name}' in ${place} is an object with arbitrary names, and is not compared`);
    else if ((place === 'query' || place === 'cookie') && isExploded(read) && read.shape.isOpen === true)
      this.warn(
        path,
        `the properties of the parameter '${name}' in ${place} without a name of their own are not compared`,
      );
    return read;
  }

  /** @param isJsonText whether the value is read as JSON, which carries its types */
  #schemaAt(schema: unknown, path: Path, of: 'request' | 'response' = 'request', isJsonText = false) {
    if (schema === undefined) return { schema: undefined, shape: anything };
    const name = this.#schemas[of].add(schema, path);
    return { schema: name, shape: isJsonText ? anything : this.#shapes.shapeOf(schema, path) };
  }

  #readBody(written: unknown, at: Path): Body | undefined {
    if (written === undefined) return undefined;
    const resolved = this.resolve(written, at);
    if (resolved === undefined) return undefined;
    const { node, path } = resolved;
    this.#checkFields('request body', node, path);
    const content = this.#readContent(node['content'], [...path, 'content'], 'request');
    return { required: node['required'] === true, content };
  }

  #readContent(written: unknown, at: Path, of: 'request' | 'response'): Content[] {
    if (written === undefined) return [];
    if (!isNode(written)) return this.fail(at, 'content: must be an object') ?? [];
    const types = new Set<string>();
    const read = Object.entries(written).flatMap(([key, media]): Content[] => {
      const type = key.split(';', 1)[0]!.trim().toLowerCase();
      if (!/^(?:\*\/\*|[^/\s*]+\/(?:\*|(?:\*\+)?[^/\s*]+))$/.test(type))
        return this.fail([...at, key], `'${key}' is not a media type`) ?? [];
      if (types.has(type))
        return this.fail([...at, key], `'${type}' is defined twice: parameters of a media type are ignored`) ?? [];
      types.add(type);
      const node = isNode(media) ? media : {};
      const path = [...at, key];
      this.#checkFields('media type', node, path);
      const written = this.#schemaAt(node['schema'], [...path, 'schema'], of, isJson(type));
      if (written.schema !== undefined && !isCompared(type))
        this.warn(path, `bodies of type '${type}' are accepted, and not compared with their schema`);
      return [
        { type, ...written, parts: this.#readParts(type, written.shape, node['encoding'], [...path, 'encoding']) },
      ];
    });
    const rank = ({ type }: Content): number =>
      type === '*/*' ? 3 : type.endsWith('/*') ? 2 : type.includes('*') ? 1 : 0;
    return read.toSorted((a, b) => rank(a) - rank(b));
  }

  /** How each property of a form is written. */
  #readParts(type: string, shape: Shape, encoding: unknown, at: Path): Record<string, Part> {
    if (type !== 'multipart/form-data' && type !== 'application/x-www-form-urlencoded') return {};
    const said = isNode(encoding) ? encoding : {};
    const parts = Object.entries(shape.properties ?? {}).map(([name, own]): [string, Part] => {
      const written = isNode(said[name]) ? said[name] : {};
      this.#checkFields('encoding', written, [...at, name]);
      const { contentType, style = 'form', explode } = written;
      if (!styles.query.includes(style as Style))
        this.fail([...at, name, 'style'], `'${String(style)}' is not a style of a form`);
      const types =
        typeof contentType === 'string' ? contentType.split(',').map((one) => one.trim().toLowerCase()) : [];
      const isComplex = (one: Shape): boolean =>
        one.types.includes('object') || (one.items !== undefined && isComplex(one.items));
      const json = types.length > 0 ? types.every(isJson) : style === 'form' && explode === undefined && isComplex(own);
      return [
        name,
        {
          types,
          json,
          shape: own,
          style: style as Style,
          explode: typeof explode === 'boolean' ? explode : style === 'form',
        },
      ];
    });
    return Object.fromEntries(parts);
  }

  #readResponses(written: unknown, at: Path): Response[] {
    if (!isNode(written)) return [];
    return Object.entries(written).flatMap(([status, one]) => {
      if (status.startsWith('x-')) return [];
      if (!/^(?:[1-5](?:\d\d|XX)|default)$/.test(status))
        return this.fail([...at, status], `'${status}' is not a status`) ?? [];
      const resolved = this.resolve(one, [...at, status]);
      if (resolved === undefined) return [];
      this.#checkFields('response', resolved.node, resolved.path);
      return [
        { status, content: this.#readContent(resolved.node['content'], [...resolved.path, 'content'], 'response') },
      ];
    });
  }

  #readSecurity(written: unknown, at: Path): Operation['security'] {
    if (!Array.isArray(written)) return undefined;
    return written.map((one: unknown, index) =>
      Object.keys(isNode(one) ? one : {}).map((name) => this.#readScheme(name, [...at, index, name])),
    );
  }

  #readScheme(name: string, from: Path): Scheme {
    const components = this.#document['components'];
    const schemes = isNode(components) ? components['securitySchemes'] : undefined;
    const written = isNode(schemes) ? schemes[name] : undefined;
    const at: Path = ['components', 'securitySchemes', name];
    if (written === undefined) this.fail(from, `the security scheme '${name}' is not defined`);
    const {
      type,
      scheme,
      in: place,
      name: key,
    } = (written === undefined ? {} : (this.resolve(written, at)?.node ?? {})) as Node;
    const more = type === 'http' ? [String(scheme).toLowerCase()] : type === 'apiKey' ? [place, key] : [];
    return { name, type: [type, ...more].join(' ') };
  }

  /** The object at a place, behind its references. */
  resolve(written: unknown, at: Path): { readonly node: Node; readonly path: Path } | undefined {
    let node = written;
    let path = at;
    for (let steps = 0; steps < maxReferences; steps++) {
      if (!isNode(node)) return this.fail(path, 'must be an object');
      const { $ref } = node;
      if (typeof $ref !== 'string') return { node, path };
      const found = this.find($ref, [...path, '$ref']);
      if (found === undefined) return undefined;
      ({ value: node, path } = found);
    }
    return this.fail(at, 'the references form a cycle');
  }

  /** The target of a reference. */
  find(reference: string, at: Path, isQuiet = false): { readonly value: unknown; readonly path: Path } | undefined {
    const fail = (path: Path, message: string): undefined => (isQuiet ? undefined : this.fail(path, message));
    if (!reference.startsWith('#'))
      return fail(at, `'${reference}': remote references are never fetched: copy the schema into this document`);
    if (reference !== '#' && !reference.startsWith('#/'))
      return fail(at, `'${reference}': anchors are not followed here`);
    const path: (string | number)[] = [];
    let value: unknown = this.#document;
    for (const part of reference.slice(2).split('/')) {
      const key = unescapePart(part);
      const inside = typeof value === 'object' && value !== null && key !== undefined && Object.hasOwn(value, key);
      if (!inside) return fail(at, `'${reference}' leads nowhere`);
      path.push(Array.isArray(value) ? Number(key) : key);
      value = (value as Node)[key];
    }
    return { value, path };
  }
}

function isSetByProxies(header: string): boolean {
  return header.toLowerCase() === 'x-request-id' || isProxyField(foldName(header.toLowerCase()));
}

const maxReferences = 50;

const defaultStyle = { path: 'simple', query: 'form', header: 'simple', cookie: 'form' } as const;
const styles: Readonly<Record<'path' | 'query' | 'header' | 'cookie', readonly Style[]>> = {
  path: ['simple', 'label', 'matrix'],
  query: ['form', 'spaceDelimited', 'pipeDelimited', 'deepObject'],
  header: ['simple'],
  cookie: ['form'],
};

function unescapePart(part: string): string | undefined {
  try {
    return decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
  } catch {
    return undefined;
  }
}

/** True for types whose bodies are read: the others are accepted by their type alone. */
function isCompared(type: string): boolean {
  return (
    isJson(type) ||
    type.startsWith('text/') ||
    /^(?:multipart\/form-data|application\/(?:x-www-form-urlencoded|octet-stream))$/.test(type)
  );
}
