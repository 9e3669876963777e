// Makes site/*.html of pages/*.md.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { marked } from "marked";

mkdirSync("site", { recursive: true });
for (const file of readdirSync("pages")) {
  const name = file.replace(/\.md$/, ".html");
  const html = marked.parse(readFileSync(`pages/${file}`, "utf8"));
  writeFileSync(`site/${name}`, `<!doctype html>\n<meta charset="utf-8">\n<title>Handbook</title>\n${html}`);
  console.log(`made ${name}`);
}
