// The last lines: what to try next. Each command works as printed, in the clone.

import { say } from './print.ts';
import { pageOf, type World } from './world.ts';

/** For when everything has ended: each command, and its purpose. */
export const nextCommands = [
  ['npm run demo -- --keep', 'the same, and leave it running'],
  ['npx sallyport sidecar --config examples/two-services/orders.yaml --check', 'check a configuration'],
  ['npx sallyport --help', 'all commands'],
  ['cat examples/two-services/README.md', 'the same by hand'],
] as const;

export function sayNext(): void {
  say('\nTry next, in the clone:');
  for (const [command, purpose] of nextCommands) say(`  ${command.padEnd(74)}  ${purpose}`);
}

/** For when everything is running: where it listens, and how to end it. */
export function sayStillRunning(world: World): void {
  const { directory, ports, processes } = world;
  const running = processes.list();
  say(`
Still running:
${running.map(([name, pid]) => `  ${name.padEnd(16)} pid ${pid}`).join('\n')}

In a browser: ${pageOf(world)}

Try next, in the clone:
  curl http://127.0.0.1:${ports.webApp}/
  curl -H 'Host: orders' http://127.0.0.1:${ports.outbound}/orders
  http_proxy=http://127.0.0.1:${ports.outbound} curl http://orders/orders
  curl -X DELETE http://127.0.0.1:${ports.toOrders}/orders/1
  curl http://127.0.0.1:${ports.ordersAdmin}/connections
  curl http://127.0.0.1:${ports.ordersAdmin}/denials      # then: npx sallyport why ID --admin 127.0.0.1:${ports.ordersAdmin}
  curl -i --cacert ${directory}/run/front.pem -H "Authorization: Bearer $(curl -s 'http://127.0.0.1:${ports.issuer}/token?user=ada&group=clerks')" https://localhost:${ports.gatewayHttps}/orders
  npx sallyport gateway status --config ${directory}/gateway.yaml
  npx sallyport inspect http://127.0.0.1:${ports.webAdmin}
  npx sallyport ca ls --dir ${directory}/run/ca

Policies to edit: ${directory}/policies
Logs:             ${directory}/run
To end it:
  kill -INT ${running.map(([, pid]) => pid).join(' ')}; rm -rf ${directory}`);
}
