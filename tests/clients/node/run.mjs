// One check of a Node client: `node run.mjs LIBRARY CHECK`, with MONGARS_URL and MONGARS_KEY in the environment.
const [library, check] = process.argv.slice(2);
const { checks } = await import(`./${library}.mjs`);
await checks[check]({
  url: process.env.MONGARS_URL,
  key: process.env.MONGARS_KEY,
  tooLong: "one two three four five six seven eight nine ten ".repeat(600),
});
