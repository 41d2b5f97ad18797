// What each of several workers makes of the settings.

import t from 'tap';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { shareOf } from '../../sidecar/process/worker-settings.ts';

const yaml = (port: number): string =>
  `trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: .\nlisteners: { "shop/g:80": "127.0.0.1:${port}" }\nlimits: { connections: 101, pendingRequests: 10 }\n`;

t.test('a gateway: each worker gets its share of each cap, and the same port numbers', async (t) => {
  const settings = parseGatewaySettings(yaml(8080), 'gateway.yaml');
  t.match(shareOf(settings, 2, 2), { limits: { connections: 51, pendingRequests: 5 }, admin: undefined });
  const open = parseGatewaySettings(yaml(0), 'gateway.yaml');
  t.equal(shareOf(open, 1, 1), open);
  t.throws(() => shareOf(open, 1, 2), {
    code: 'config_invalid',
    message: 'several workers need port numbers: port 0 gives each of them another',
  });
});
