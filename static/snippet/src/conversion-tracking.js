/** trackLead and trackSale, with the publishable key. */

import { allowed, busy, click, emit, tracked } from './click.js';
import { post } from './post.js';
import { api, data } from './settings.js';

const send = async (type, input) => {
  const answer = await post(
    `${api}/track/${type}/client`,
    { clickId: click() || '', ...input },
    data.publishableKey,
    // A sale without an invoice's number would count again: it is sent once.
    type == 'sale' && !input?.invoiceId,
  );
  if (answer && !answer.error) emit(type, answer);
  else console.warn(type, answer);
  return answer;
};

/**
 * It waits for a click under way, and is not sent once consent is refused. Before
 * consent it gives undefined: a sign-up must not wait for an answer for ever.
 */
const conversion = type => async input => {
  if (!data.publishableKey) return console.warn('publishable key?');
  const sent = busy.then(() => tracked).then(() => allowed && send(type, input));
  if (allowed) return sent;
};

export const conversions = CONVERSION_TRACKING && {
  trackLead: conversion('lead'),
  trackSale: conversion('sale'),
};
