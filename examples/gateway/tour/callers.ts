// The callers: users through the gateway, and a workload of the mesh that goes around it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, ask, goDirectly, idOf } from '../../two-services/demo/ask.ts';
import { credentialOf, type World } from '../../two-services/demo/world.ts';

export interface UserQuestion {
  readonly token?: string;
  readonly method?: string;
  readonly path?: string;
  /** JSON. */
  readonly body?: string;
  /** The server name of the TLS handshake. */
  readonly serverName?: string;
  /** The host in the request, if it differs. */
  readonly host?: string;
}

const shop = 'shop.demo.test';

/** A user's request through the gateway, over TLS. */
export function askAsUser({ ports, directory }: World, question: UserQuestion): Promise<Answer> {
  const { serverName = shop, host = serverName, path = '/orders', method = 'GET', token, body } = question;
  const authority = readFileSync(join(directory, 'run', 'front.pem'), 'utf8');
  const asked = { port: ports.gatewayHttps, method, path, host, serverName, authority };
  return ask({ ...asked, ...(token === undefined ? {} : { token }), ...(body === undefined ? {} : { body }) });
}

/** What an assistant of a user is told by a tool, or by the list of tools, in one line. */
export async function askAsAssistant(world: World, token: string, tool?: string): Promise<string> {
  const about = tool === undefined ? { method: 'tools/list' } : { method: 'tools/call', params: { name: tool } };
  const message = JSON.stringify({ jsonrpc: '2.0', id: 1, ...about });
  const { body } = await askAsUser(world, { token, method: 'POST', path: '/mcp', body: message });
  const { result, error } = JSON.parse(body) as ToolAnswer;
  if (error !== undefined) return error.message;
  return result.tools?.map(({ name }) => name).join(', ') ?? result.content?.[0]?.text.trim() ?? '';
}

interface ToolAnswer {
  readonly result: {
    readonly tools?: readonly { readonly name: string }[];
    readonly content?: readonly { readonly text: string }[];
  };
  readonly error?: { readonly message: string };
}

/** A request of `reports`, a workload with its own certificate, directly to the sidecar of `web`. */
export async function askAsReports(world: World, headers: Readonly<Record<string, string>>): Promise<Answer> {
  const address = { host: '127.0.0.1', port: world.ports.webInbound };
  const direct = goDirectly(address, idOf('web'), credentialOf(world, 'reports'));
  return direct.ask(headers).finally(direct.end);
}

/** A token of the issuer for `user`. */
export async function tokenFor({ ports }: World, user: string, group: string): Promise<string> {
  return (await ask({ port: ports.issuer, path: `/token?user=${user}&group=${group}` })).body.trim();
}

/** The last transaction token that the gateway sent to `web`, from the log of a careless app. */
export function stealFromLog(world: World): string {
  const heads = logOfWeb(world);
  return heads.findLast((head) => head['txn-token'] !== undefined)?.['txn-token'] ?? 'there is none in the log';
}

/** How often `web` was asked for a path. */
export function countAsked(world: World, path: string): number {
  return logOfWeb(world).filter(({ url }) => url === path).length;
}

function logOfWeb({ directory }: World): readonly Readonly<Record<string, string>>[] {
  const lines = readFileSync(join(directory, 'run', 'web-app.log'), 'utf8')
    .trim()
    .split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, string>);
}

/** A response, or that there is none, as text. */
export async function wordsOf(answer: Promise<Answer>): Promise<string> {
  return answer.then(
    ({ status, body }) => `${status} ${status === 200 ? '' : body}`.trim(),
    () => 'no answer',
  );
}

/** The same for a problem document: its title. */
export async function titleOf(answer: Promise<Answer>): Promise<string> {
  return wordsOf(
    answer.then((one) => (one.status === 200 ? one : { ...one, body: String(JSON.parse(one.body).title) })),
  );
}

/** Several responses: `10 times 200, 1 times 429`. */
export async function countsOf(answers: readonly Promise<Answer>[]): Promise<string> {
  const counts = new Map<number, number>();
  for (const { status } of await Promise.all(answers)) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts]
    .sort(([a], [b]) => a - b)
    .map(([status, count]) => `${count} times ${status}`)
    .join(', ');
}
