// A search over the texts of articles: an index of words, articles as objects, bodies in buffers.
//
// A request finds the articles with the popular words and a few others, scores and sorts them, and
// renders the best as JSON together with a digest of their bodies.
'use strict';

const crypto = require('crypto');
const readline = require('readline');

const ARTICLES = 40000;
const VOCABULARY = 4000;
const WORDS_EACH = 24;
const BODY_BYTES = 640;
const RESULTS = 4000;
const POPULAR_WORDS = 36;
const OTHER_WORDS = 2;

// The same numbers in [0, limit) in every run.
function generator(seed) {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) % limit;
  };
}

// Low numbers are frequent, as in a language.
function someWord(next) {
  return Math.min(next(VOCABULARY), next(VOCABULARY));
}

function build() {
  const next = generator(1);
  const articles = new Map();
  const index = new Map();
  for (let id = 0; id < ARTICLES; id++) {
    const words = [];
    for (let count = 0; count < WORDS_EACH; count++) words.push(`word${someWord(next)}`);
    const body = Buffer.alloc(BODY_BYTES);
    for (let at = 0; at < BODY_BYTES; at += 4) body.writeUInt32LE(next(0xffffffff), at);
    articles.set(id, {id, title: words.slice(0, 4).join(' '), words, body, views: next(100000)});
    for (const word of new Set(words)) {
      if (!index.has(word)) index.set(word, []);
      index.get(word).push(id);
    }
  }
  return {articles, index};
}

function serve({articles, index}, seed) {
  const next = generator(seed);
  const scores = new Map();
  for (let count = 0; count < POPULAR_WORDS + OTHER_WORDS; count++) {
    const word = count < POPULAR_WORDS ? count * 8 : VOCABULARY / 2 + next(VOCABULARY / 4);
    const found = index.get(`word${word}`) || [];
    for (const id of found) scores.set(id, (scores.get(id) || 0) + 1 / found.length);
  }
  const ranked = [...scores].map(([id, score]) => ({article: articles.get(id), score}));
  ranked.sort((left, right) => right.score - left.score || left.article.id - right.article.id);
  const digest = crypto.createHash('sha256');
  for (const {article, score} of ranked.slice(0, RESULTS)) {
    const {id, title, words, views} = article;
    digest.update(JSON.stringify({id, title, words: [...words].sort(), views, score}));
    digest.update(article.body);
  }
  return digest.digest('hex').slice(0, 16);
}

const data = build();
console.log('ready');
readline.createInterface({input: process.stdin, terminal: false}).on('line', (line) => {
  const seed = Number(line.split(' ')[1]);
  console.log(`done ${seed} ${serve(data, seed)}`);
});
