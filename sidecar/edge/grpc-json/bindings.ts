// Reads a descriptor set and builds the table of its bindings. A truncated set, or one whose rules name missing
// fields, is refused here, when the document is loaded.

import {
  createFileRegistry,
  type DescField,
  type DescMessage,
  type DescMethod,
  type FileRegistry,
  fromBinary,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { type FieldPath, fieldAt, textReader } from './field-text.ts';
import { type HttpRule, httpRuleOf } from './http-rule.ts';
import { parseTemplate, type Template, TemplateTree } from './template.ts';

/** An HTTP method and a path that stand for a gRPC method. */
export interface Binding {
  readonly rpc: DescMethod;
  /** `/shop.v1.Orders/Get`. */
  readonly rpcPath: string;
  readonly template: Template;
  /** Fields that the path sets. */
  readonly fromPath: ReadonlyMap<string, FieldPath>;
  /** The whole message, one field of it, or nothing. */
  readonly body: '*' | DescField | undefined;
  /** The field of the response that is sent; undefined: all of it. */
  readonly responseBody: DescField | undefined;
}

/** Every binding of the services of one document, and the types of their messages. */
export interface Bindings {
  readonly registry: FileRegistry;
  readonly tree: TemplateTree<Binding>;
}

/** A fault, and the field of the document that has it. */
export interface BindingProblem {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** @param set a FileDescriptorSet as base64 */
export function readBindings(
  set: string,
  services: readonly string[],
  autoMapping: boolean,
): { readonly bindings: Bindings } | { readonly problems: readonly BindingProblem[] } {
  const inSet = ['protoDescriptorBin'];
  let registry: FileRegistry;
  try {
    registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(set, 'base64')));
  } catch (error) {
    return { problems: [{ path: inSet, message: `not a descriptor set: ${(error as Error).message}` }] };
  }
  const problems: BindingProblem[] = [];
  const tree = new TemplateTree<Binding>();
  for (const [index, name] of services.entries()) {
    const service = registry.getService(name);
    if (service === undefined)
      problems.push({ path: ['services', index], message: `the descriptor set has no service '${name}'` });
    for (const rpc of service?.methods ?? [])
      try {
        addMethod(tree, rpc, autoMapping);
      } catch (error) {
        problems.push({ path: inSet, message: `${name}.${rpc.name}: ${(error as Error).message}` });
      }
  }
  return problems.length > 0 ? { problems } : { bindings: { registry, tree } };
}

function addMethod(tree: TemplateTree<Binding>, rpc: DescMethod, autoMapping: boolean): void {
  const rule = httpRuleOf(rpc);
  const rpcPath = `/${rpc.parent.typeName}/${rpc.name}`;
  const rules = rule === undefined ? [] : [rule, ...rule.more];
  if (rule?.more.some(({ more }) => more.length > 0)) throw new Error('additional_bindings must not be nested');
  // As Envoy: a method without a rule can be called by its name.
  if (rule === undefined && autoMapping)
    rules.push({ method: 'POST', path: rpcPath, body: '*', responseBody: '', more: [] });
  for (const one of rules) {
    const binding = bind(one, rpc, rpcPath);
    const known = tree.add(binding.template, one.method, binding);
    if (known !== undefined) throw new Error(`'${one.method} ${one.path}' also matches ${known.rpcPath}`);
  }
}

function bind(rule: HttpRule, rpc: DescMethod, rpcPath: string): Binding {
  if (!/^(?:[A-Z][A-Z-]*|\*)$/.test(rule.method)) throw new Error('google.api.http without a method and a path');
  const template = parseTemplate(rule.path);
  const fromPath = new Map<string, FieldPath>();
  for (const { field } of template.variables) {
    const path = fieldAt(rpc.input, field);
    if (path === undefined) throw new Error(`'${rule.path}': ${rpc.input.typeName} has no field '${field}'`);
    const leaf = path.at(-1)!;
    if (leaf.fieldKind === 'list' || textReader(leaf) === undefined)
      throw new Error(`'${rule.path}': the field '${field}' cannot be a part of a path`);
    if (fromPath.has(field)) throw new Error(`'${rule.path}': '${field}' is bound twice`);
    fromPath.set(field, path);
  }
  return {
    ...{ rpc, rpcPath, template, fromPath },
    body: rule.body === '*' ? '*' : rule.body === '' ? undefined : topField(rpc.input, rule.body, 'body'),
    responseBody: rule.responseBody === '' ? undefined : topField(rpc.output, rule.responseBody, 'response_body'),
  };
}

function topField(message: DescMessage, name: string, option: string): DescField {
  const field = message.fields.find((one) => one.name === name);
  if (field === undefined) throw new Error(`${option}: ${message.typeName} has no field '${name}'`);
  return field;
}
