// Drives @salesforce/agents as a user of the library would, after `sf org login`. Prints what it got, as JSON.
const { AuthInfo, Connection, SfProject } = require('@salesforce/core');
const { Agent, AgentTester, AgentforceStudioTester } = require('@salesforce/agents');

const refused = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return error.message;
  }
};

const talk = async (connection, project) => {
  const agent = await Agent.init({ connection, project, apiNameOrId: 'Service_Agent' });
  const start = await agent.preview.start();
  const sent = [
    await agent.preview.send('Where is order 123?'),
    await agent.preview.send('Tell me about account Acme'),
  ];
  const traces = await agent.preview.getAllTraces();
  return { start, sent, traces, end: await agent.preview.end('UserRequest') };
};

const greetingOf = async (connection, project, apiNameOrId) => {
  const agent = await Agent.init({ connection, project, apiNameOrId });
  const { messages } = await agent.preview.start();
  await agent.preview.end('UserRequest');
  return messages[0].message;
};

const test = async (tester, name) => {
  const { runId } = await tester.start(name);
  return { runId, results: await tester.poll(runId) };
};

const main = async () => {
  const connection = await Connection.create({ authInfo: await AuthInfo.create({ username: process.argv[2] }) });
  const project = await SfProject.resolve();
  const first = new AgentTester(connection);
  const successor = new AgentforceStudioTester(connection);
  const endless = await successor.start('Order_Suite_Endless');
  const cancelled = await first.start('Order_Tests_Endless');
  return {
    conversation: await talk(connection, project),
    employee: await greetingOf(connection, project, 'Employee_Agent'),
    inactive: await refused(greetingOf(connection, project, 'Inactive_Agent')),
    remote: await Agent.listRemote(connection),
    previewable: await Agent.listPreviewable(connection, project),
    passed: await test(first, 'Order_Tests'),
    failed: await test(first, 'Order_Tests_Failing'),
    unknown: await refused(first.start('No_Such_Tests')),
    cancel: await first.cancel(cancelled.runId),
    suite: await test(successor, 'Order_Suite_Failing'),
    unknownSuite: await refused(successor.start('No_Such_Suite')),
    second: await refused(successor.start('Order_Suite_Endless')),
    endless: await successor.status(endless.runId),
  };
};

main().then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  }
);
