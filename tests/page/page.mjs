// Tests of the page, in a browser, with a server that runs:
//
//   node tests/page/page.mjs BASE_URL SCREENSHOT_FOLDER [TOKEN_URL TOKEN]
//
// The index holds at least 3 videos that the browser plays, and the server has their folder as --media-root. A check fails,
// too, when the page logs an error, throws, breaks its content security policy, or asks another origin for anything.

import assert from 'node:assert/strict';
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {chromium} from 'playwright-core';

const [base, folder, tokenUrl, token] = process.argv.slice(2);
if (!base || !folder || (tokenUrl && !token)) {
  console.error('usage: node tests/page/page.mjs BASE_URL SCREENSHOT_FOLDER [TOKEN_URL TOKEN]');
  process.exit(2);
}
mkdirSync(folder, {recursive: true});
const PATIENCE = 15_000;
const RESULTS = '#results', CARD = '#results .card', SEARCH = '**/v1/search';

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

/** What went wrong on a page by itself, and which of it a check expects: a refused request is logged as an error. */
let troubles = [];
let expected = null;

async function open(url, options = {}) {
  const origin = new URL(url).origin;
  const context = await browser.newContext({viewport: {width: 1280, height: 800}, colorScheme: 'light', ...options});
  context.setDefaultTimeout(PATIENCE);
  context.on('request', request => {
    const asked = new URL(request.url());
    if (!['data:', 'blob:'].includes(asked.protocol) && asked.origin !== origin) troubles.push(`it asked ${request.url()}`);
  });
  const page = await context.newPage();
  page.on('pageerror', error => troubles.push(`it threw: ${error.message}`));
  page.on('console', message => {
    if (['error', 'assert'].includes(message.type()) && !expected?.test(message.text())) troubles.push(`it logged: ${message.text()}`);
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', event => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
    // Where a video first comes to rest after a jump, before it plays on.
    addEventListener('seeked', event => { window.landed ??= event.target.currentTime; }, true);
  });
  return page;
}

let [passed, failed] = [0, 0];
async function check(what, body) {
  expected = null;
  try {
    await body();
    assert.deepEqual(troubles, [], 'expected no errors, violations or requests elsewhere');
    passed += 1;
    console.log(`ok  ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${what}\n        ${[error.message, ...troubles].join('\n').replaceAll('\n', '\n        ')}`);
  }
  troubles = [];
}

const shot = (page, name) => page.screenshot({path: join(folder, `${name}.png`), animations: 'disabled'});
const status = page => page.locator('#status').textContent();
const message = page => page.locator('#message').innerText();
const focused = page => page.evaluate(() => {
  const at = document.activeElement;
  return at.id || [...document.querySelectorAll('.card')].indexOf(at);
});
const address = page => page.evaluate(() => location.hash);
const idle = page => page.waitForFunction(() => !document.body.classList.contains('busy'));
/** Thumbnails below the window load when they are needed. */
const pictured = page => page.waitForFunction(() => {
  const near = [...document.querySelectorAll('.card img[src]')].filter(image => image.getBoundingClientRect().top < innerHeight);
  return near.some(image => image.naturalWidth > 0) && near.every(image => image.complete);
});
const image = (page, width, height) => page.evaluate(([width, height]) => {
  const canvas = Object.assign(document.createElement('canvas'), {width, height});
  const paint = canvas.getContext('2d');
  for (let x = 0; x < width; x += 8) {
    paint.fillStyle = `hsl(${360 * x / width} 70% 50%)`;
    paint.fillRect(x, 0, 8, height);
  }
  return canvas.toDataURL('image/png').split(',')[1];
}, [width, height]);

/** What the server answers to the search that `act` starts, once the page shows it. */
async function searched(page, act) {
  const answered = page.waitForResponse(response => response.url().endsWith('/v1/search'));
  await act();
  const response = await answered;
  await response.finished();
  await idle(page);
  return {sent: response.request().postDataJSON(), status: response.status(), ...await response.json()};
}
const type = (page, text) => searched(page, async () => {
  await page.fill('#field', text);
  await page.press('#field', 'Enter');
});

/** A search that is answered by the test: with results made of a first real one, or otherwise. */
async function answering(page, handler, body) {
  await page.route(SEARCH, handler);
  try { await body(); } finally { await page.unroute(SEARCH); }
}
const results = (...changes) => async route => {
  const answer = await (await route.fetch()).json();
  const [first] = answer.answers[0].results;
  answer.answers[0].results = changes.map((change, i) => ({...first, ...change, rank: i + 1}));
  await route.fulfill({json: answer});
};

const page = await open(base);
const info = await (await fetch(new URL('/v1/info', base))).json();

await check('the policy that the page needs is sent with it', async () => {
  const policy = (await page.goto(base)).headers()['content-security-policy'] ?? '';
  assert.match(policy, /default-src 'none'/, 'expected a content security policy that forbids by default');
});

await check('the first page says what is held, and its field has the focus', async () => {
  await idle(page);
  const line = await status(page);
  assert.ok(line.includes(`${info.videos.toLocaleString('en')} video`), `expected the number of videos in: ${line}`);
  assert.ok(line.includes(`${info.clips.toLocaleString('en')} clip`), `expected the number of clips in: ${line}`);
  assert.ok(line.includes(info.model.name), `expected the name of the model in: ${line}`);
  assert.equal(await focused(page), 'field', 'expected the field to have the focus');
  assert.equal(await page.locator(CARD).count(), 0, 'expected no cards before a search');
  await shot(page, 'first');
});

let answer;
await check('a sentence and Enter give a card for each video, the best first', async () => {
  answer = await type(page, 'a dog');
  assert.deepEqual(answer.sent.queries, [{text: 'a dog'}], 'expected the sentence to be sent');
  assert.equal(answer.sent.top, Math.min(24, info.limits.top), 'expected 24 results to be asked for');
  const found = answer.answers[0].results;
  const videos = [...new Set(found.map(result => result.video_id))];
  assert.ok(videos.length >= 3, `expected results of at least 3 videos, not of ${videos.length}`);
  assert.deepEqual(await page.locator(`${CARD} h3`).evaluateAll(all => all.map(title => title.title)), videos,
    'expected a card for each video, in the order of the answer');
  const scores = await page.locator(`${CARD} .score`).evaluateAll(all => all.map(score => Number(score.textContent)));
  assert.deepEqual(scores, [...scores].sort((a, b) => b - a), 'expected scores that fall');
  assert.equal(await page.locator(`${CARD} .moment`).count(), found.length, 'expected a segment for each moment found');
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  const line = await status(page);
  assert.ok(line.startsWith(`${plural(found.length, 'moment')} in ${plural(videos.length, 'video')}, `), `expected the counts in: ${line}`);
  assert.match(line, /\d ms/, 'expected how long it took');
  assert.equal(await page.getAttribute('#status', 'role'), 'status', 'expected the counts in a live region');
  assert.equal(await address(page), '#q=a%20dog', 'expected the sentence in the address');
});

await check('thumbnails load', async () => {
  await pictured(page);
  await shot(page, 'results');
});

await check('everything that can be used has a name', async () => {
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, dialog, video, article, ol, [role=group], [role=img]')]
    .filter(element => !(element.ariaLabel || element.getAttribute('aria-labelledby') || element.textContent.trim()))
    .map(element => element.outerHTML));
  assert.deepEqual(nameless, [], 'expected a label on everything');
});

await check('a moment plays from its start, and Esc ends it', async () => {
  let played = false;
  for (const card of await page.locator(CARD).all()) {
    // The latest moment: one at 0 would be reached without a jump.
    const starts = await card.locator('button.moment').evaluateAll(all => all.map(part => Number(part.dataset.at)));
    if (!starts.length) continue;
    const at = Math.max(...starts);
    await page.evaluate(() => { window.landed = undefined; });
    const refined = page.waitForResponse(response => response.url().endsWith('/v1/moments'));
    await card.locator('button.moment').nth(starts.indexOf(at)).click();
    await page.waitForFunction(() => window.landed !== undefined || document.querySelector('#trouble:not([hidden])'));
    assert.ok(await page.locator('dialog[open]').isVisible(), 'expected a dialog');
    const {moments} = await (await refined).json();
    const landed = await page.evaluate(() => window.landed);
    if (landed !== undefined) {
      played = true;
      assert.ok(Math.abs(landed - at) <= 0.5, `expected the video at ${at} s, not at ${landed} s`);
      await page.waitForFunction(n => document.querySelectorAll('#bar .moment').length >= n, moments.length);
      await page.evaluate(() => document.querySelector('video').pause());
      const early = page.locator('#bar .moment').first();
      const wanted = Number(await early.getAttribute('data-at'));
      await page.evaluate(() => { window.landed = undefined; });
      await early.click();
      await page.waitForFunction(() => window.landed !== undefined);
      const then = await page.evaluate(() => window.landed);
      assert.ok(Math.abs(then - wanted) <= 0.5, `expected a moment below the video to lead to ${wanted} s, not to ${then} s`);
      await page.evaluate(() => document.querySelector('video').pause());
      await shot(page, 'play');
    }
    await page.keyboard.press('Escape');
    assert.equal(await page.locator('dialog[open]').count(), 0, 'expected Esc to close the dialog');
    assert.equal(await page.locator(CARD).count() > 0, true, 'expected the results to be there still');
    if (played) break;
  }
  assert.ok(played, 'expected at least one video that the browser plays');
});

await check('a click on the thumbnail plays the best moment', async () => {
  const card = page.locator(`${CARD}:has(button.shot)`).first();
  await card.locator('button.shot').click();
  assert.ok(await page.locator('dialog[open]').isVisible(), 'expected a dialog');
  assert.equal(await page.locator('#playing').textContent(), await card.locator('h3').textContent(), 'expected the name of the video in it');
  await page.click('#close');
  assert.equal(await page.locator('dialog[open]').count(), 0, 'expected the button to close the dialog');
});

await check('a video of a format that the browser cannot play is said to be one', async () => {
  await page.route('**/media', route => route.fulfill({contentType: 'video/mp4', body: 'not a video'}));
  await page.locator('button.shot').first().click();
  await page.waitForSelector('#trouble:not([hidden])');
  assert.match(await page.locator('#trouble').textContent(), /does not know the format/, 'expected the reason');
  await page.unroute('**/media');
  await page.keyboard.press('Escape');
});

await check('back, forward and a reload bring a search back', async () => {
  await type(page, 'a cat & 100%');
  const returns = async (text, act) => {
    const back = await searched(page, act);
    assert.deepEqual(back.sent.queries, [{text}], `expected a search for ${text}`);
    assert.equal(await page.inputValue('#field'), text, 'expected the sentence in the field');
    assert.ok(await page.locator(CARD).count() > 0, 'expected cards');
  };
  await returns('a dog', () => page.goBack());
  await returns('a cat & 100%', () => page.goForward());
  await returns('a cat & 100%', () => page.reload());
  await page.click('h1 a');
  await page.waitForSelector('body.first');
  assert.equal(await page.inputValue('#field'), '', 'expected an empty field on the first page');
});

await check('a picture is searched by, scaled down if it is large', async () => {
  const small = await image(page, 240, 160);
  const choose = data => searched(page, () => page.setInputFiles('#file', {name: 'stripes.png', mimeType: 'image/png', buffer: Buffer.from(data, 'base64')}));
  const first = await choose(small);
  assert.deepEqual(first.sent.queries, [{image: small}], 'expected a small picture to be sent as it is');
  assert.equal(first.status, 200, 'expected the server to read it');
  assert.equal(await page.locator('#chip').innerText(), 'stripes.png', 'expected a chip with its name');
  const large = await choose(await image(page, 2400, 1200));
  const sent = large.sent.queries[0].image;
  const sides = await page.evaluate(async data => {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${data}`;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  }, sent);
  assert.ok(sent.startsWith('/9j/'), 'expected a large picture to be sent as JPEG');
  assert.deepEqual(sides, [1024, 512], 'expected a large picture to be sent with at most 1024 pixels a side');
  await pictured(page);
  await shot(page, 'picture');
  const again = await searched(page, () => page.reload());
  assert.deepEqual(again.sent.queries, large.sent.queries, 'expected a reload to search by the same picture');
});

await check('a picture can be dropped anywhere', async () => {
  const data = await image(page, 64, 64);
  const dropped = await searched(page, () => page.evaluate(async data => {
    const dataTransfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    dataTransfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));
    const send = type => document.querySelector('footer').dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
    send('dragover');
    if (!document.body.classList.contains('dropping')) throw new Error('expected the page to show that a picture can be dropped');
    send('drop');
  }, data));
  assert.deepEqual(dropped.sent.queries, [{image: data}], 'expected the picture to be sent');
  await page.click('#drop');
  await page.waitForSelector('body.first');
});

await check('more like this searches by the clip', async () => {
  const {answers: [{results: [best]}]} = await type(page, 'a dog');
  const like = await searched(page, () => page.locator(`${CARD} .like`).first().click());
  assert.deepEqual(like.sent.queries, [{clip: best.clip}], 'expected the best clip of the first card to be sent');
  assert.equal(await address(page), `#clip=${best.clip}`, 'expected the clip in the address');
  assert.ok(await page.locator('#chip').isVisible(), 'expected a chip that says what is searched by');
  assert.equal(await focused(page), 0, 'expected the focus on the first card');
});

await check('keys move between cards, play, search for more, and lead back', async () => {
  await type(page, 'a dog');
  const press = async (key, where, what) => {
    await page.keyboard.press(key);
    assert.equal(await focused(page), where, `expected ${key} to ${what}`);
  };
  await press('ArrowDown', 0, 'move from the field to the first card');
  await press('ArrowRight', 1, 'move to the next card');
  await press('ArrowLeft', 0, 'move to the card before');
  await press('End', await page.locator(CARD).count() - 1, 'move to the last card');
  await press('Home', 0, 'move to the first card');
  const tabbable = await page.locator(CARD).evaluateAll(all => all.filter(card => card.tabIndex === 0).length);
  assert.equal(tabbable, 1, 'expected one card to be reached by Tab');
  const outline = await page.locator(CARD).first().evaluate(card => getComputedStyle(card).outlineStyle);
  assert.notEqual(outline, 'none', 'expected the focus to be seen');
  await page.keyboard.press('Enter');
  assert.ok(await page.locator('dialog[open]').isVisible(), 'expected Enter to play');
  await press('Escape', 0, 'close the dialog and return to the card');
  await press('Escape', 'field', 'return to the field');
  await page.evaluate(() => document.activeElement.blur());
  await press('/', 'field', 'return to the field');
  await page.keyboard.press('ArrowDown');
  const like = await searched(page, () => page.keyboard.press('l'));
  assert.ok('clip' in like.sent.queries[0], 'expected l to search by the clip');
});

await check('a narrow screen has nothing beside it', async () => {
  await page.setViewportSize({width: 320, height: 640});
  const fits = async where => {
    const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= screen, `expected ${where} to fit into ${screen} pixels, not to take ${wide}`);
  };
  await fits('the search by a clip');
  await type(page, 'a dog');
  await fits('the results');
  await pictured(page);
  await shot(page, 'narrow');
  await page.locator('button.shot').first().click();
  const box = await page.locator('dialog').boundingBox();
  assert.ok(box.x >= 0 && box.x + box.width <= 320, `expected the dialog to fit, not to reach from ${box.x} to ${box.x + box.width}`);
  await page.keyboard.press('Escape');
  await page.click('h1 a');
  await page.waitForSelector('body.first');
  await fits('the first page');
  await page.setViewportSize({width: 1280, height: 800});
});

await check('dark where the system is dark', async () => {
  await type(page, 'a dog');
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await paper();
  await page.emulateMedia({colorScheme: 'dark'});
  const dark = await paper();
  assert.notEqual(dark, light, 'expected another background');
  const sum = colour => colour.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
  assert.ok(sum(dark) < 150 && sum(light) > 600, `expected a dark and a light background, not ${dark} and ${light}`);
  await pictured(page);
  await shot(page, 'dark');
  await page.emulateMedia({colorScheme: 'light'});
});

await check('an older answer that comes late does not replace a newer one', async () => {
  let release;
  const late = new Promise(resolve => { release = resolve; });
  const older = results({video_id: '/videos/older.mp4'});
  await answering(page, async route => {
    if (route.request().postDataJSON().queries[0].text !== 'the older') return route.continue();
    await late;
    await older(route).catch(() => { /* The page gave it up. */ });
  }, async () => {
    await page.fill('#field', 'the older');
    await page.press('#field', 'Enter');
    assert.ok(await page.evaluate(() => document.body.classList.contains('busy')), 'expected the page to show that it waits');
    await page.fill('#field', 'the newer');
    const newer = page.waitForResponse(response => response.request().postData()?.includes('the newer'));
    await page.press('#field', 'Enter');
    await newer;
    await idle(page);
    release();
    await page.waitForTimeout(300);
    assert.equal(await page.inputValue('#field'), 'the newer', 'expected the newer sentence to stay');
    assert.equal(await page.locator(`${CARD} h3[title="/videos/older.mp4"]`).count(), 0, 'expected the newer answer to stay');
    assert.ok(await page.locator(CARD).count() > 0, 'expected the newer answer to be shown');
  });
});

await check('a busy server is asked once more', async () => {
  expected = /status of 429/;
  let asked = 0;
  await answering(page, route => ++asked === 1
    ? route.fulfill({status: 429, headers: {'retry-after': '1'}, json: {error: {code: 'busy', message: 'the queue is full'}}})
    : route.continue(), async () => {
    await page.fill('#field', 'a busy day');
    await page.press('#field', 'Enter');
    await page.waitForFunction(() => document.title.startsWith('a busy day') && !document.body.classList.contains('busy'));
    assert.equal(asked, 2, 'expected two requests');
    assert.ok(await page.locator(CARD).count() > 0, 'expected the results of the second');
  });
});

await check('an error of the server is shown in its words', async () => {
  expected = /status of 400/;
  const refused = await type(page, 'dog,'.repeat(5000));
  assert.equal(refused.status, 400, 'expected the server to refuse a sentence of 20,000 characters');
  assert.ok((await message(page)).includes(refused.error.message), `expected “${refused.error.message}” to be shown`);
  assert.equal(await page.locator(CARD).count(), 0, 'expected no older results below it');
  await page.evaluate(() => document.querySelector('#field').setSelectionRange(0, 0));
  await shot(page, 'error');
});

await check('no results are said to be none', async () => {
  await answering(page, results(), async () => {
    await type(page, 'a unicorn');
    assert.match(await message(page), /Nothing found/, 'expected the page to say so');
    assert.match(await status(page), /^0 moments in 0 videos/, 'expected the live region to say so');
    await shot(page, 'empty');
  });
});

await check('a server that is away is said to be away', async () => {
  expected = /ERR_FAILED/;
  await answering(page, route => route.abort(), async () => {
    await page.fill('#field', 'anyone there');
    await page.press('#field', 'Enter');
    await page.waitForSelector('#message:not([hidden])');
    assert.match(await message(page), /cannot be reached/, 'expected the page to say so');
  });
  await searched(page, () => page.click('#again'));
  assert.ok(await page.locator(CARD).count() > 0, 'expected “Try again” to search again');
});

await check('names are text, whatever they hold', async () => {
  const name = '<img src=x onerror="document.title=1"><b>.mp4';
  await answering(page, results({video_id: `/videos/${name}`}), async () => {
    await type(page, 'a name');
    assert.equal(await page.locator(`${CARD} h3`).textContent(), name, 'expected the name as it is');
    assert.equal(await page.locator(`${CARD} h3 b`).count(), 0, 'expected no elements made of a name');
  });
});

await check('videos that cannot be played or pictured have cards, too', async () => {
  await answering(page, results({media: null, thumbnail: null}), async () => {
    await type(page, 'no media');
    assert.match(await page.locator(CARD).innerText(), /--media-root/, 'expected the card to say how to play videos');
    assert.equal(await page.locator(`${CARD} :is(button.shot, button.moment)`).count(), 0, 'expected nothing that would play');
    const height = await page.locator('.shot').evaluate(box => box.clientHeight);
    assert.ok(height > 50, 'expected a box in place of the thumbnail');
    await page.locator(CARD).focus();
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('dialog[open]').count(), 0, 'expected no dialog');
  });
});

await check('an empty index is said to be empty', async () => {
  await page.route('**/v1/info', route => route.fulfill({json: {...info, videos: 0, clips: 0, seconds: 0}}));
  await page.goto('about:blank');
  await page.goto(base);
  await page.waitForSelector('#message:not([hidden])');
  assert.match(await message(page), /index is empty/, 'expected the page to say so');
  await page.unroute('**/v1/info');
});

await check('nothing moves where the system asks for no motion', async () => {
  await page.emulateMedia({reducedMotion: 'reduce'});
  const moving = await page.evaluate(() => {
    document.body.classList.add('busy');
    const found = getComputedStyle(document.querySelector('header'), '::after').animationName;
    document.body.classList.remove('busy');
    return found;
  });
  assert.equal(moving, 'none', 'expected the bar to stand still');
});

if (tokenUrl) {
  await check('a server with a token is asked for nothing without it, and works with it', async () => {
    expected = /status of 401/;
    const locked = await open(tokenUrl);
    await locked.goto(new URL('#q=a%20dog', tokenUrl).href);
    await locked.waitForSelector('#token', {state: 'visible'});
    assert.equal(await focused(locked), 'token', 'expected the focus on the field for the token');
    await shot(locked, 'token');
    await locked.fill('#token', `${token}x`);
    await locked.press('#token', 'Enter');
    await locked.waitForFunction(() => /not the one/.test(document.querySelector('#message').innerText));
    await locked.fill('#token', token);
    expected = null;
    const {status: code} = await searched(locked, () => locked.press('#token', 'Enter'));
    assert.equal(code, 200, 'expected the search to go on with the token');
    await pictured(locked);
    const again = await searched(locked, () => locked.reload());
    assert.equal(again.status, 200, 'expected the token to be kept for a reload');
    let played = false;
    for (const card of await locked.locator(`${CARD}:has(button.shot)`).all()) {
      await card.locator('button.shot').click();
      await locked.waitForFunction(() => document.querySelector('video').readyState >= 1 || document.querySelector('#trouble:not([hidden])'));
      played ||= await locked.evaluate(() => document.querySelector('video').readyState >= 1);
      await locked.keyboard.press('Escape');
      if (played) break;
    }
    assert.ok(played, 'expected videos to be sent with the cookie');
    await locked.context().close();
  });
}

await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
