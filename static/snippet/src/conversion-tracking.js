/** trackLead and trackSale, with the publishable key. */

import { allowed, busy, click, emit, tracked } from './click.js';
import { post } from './post.js';
import { api, data } from './settings.js';

/** How long a conversion waits for a click under way, in ms. */
const PATIENCE = 9e3;

/** A sale without an invoice's number would count again: it is sent once. */
const ONCE = 2e3;

const sleep = ms => new Promise(done => setTimeout(done, ms));

const conversion = type => async input => {
  if (!data.publishableKey) return console.warn('publishable key?');
  while (!allowed) await sleep(200);
  await Promise.race([busy.then(() => tracked), sleep(PATIENCE)]);
  const answer = await post(
    `${api}/track/${type}/client`,
    { clickId: click() || '', ...input },
    type == 'lead' || input.invoiceId ? undefined : ONCE,
    data.publishableKey,
  );
  if (answer && !answer.error) emit(type, answer);
  else console.warn(type, answer);
  return answer;
};

export const conversions = CONVERSION_TRACKING && {
  trackLead: conversion('lead'),
  trackSale: conversion('sale'),
};
